"""The small bottleneck ResNet of the paper's Table 1, exact to the last parameter: 308,323.

The table omits some rows; `bcgan.models.table1` compares it with this network row by row.
"""

import keras
from keras import layers

from bcgan.models.shortcut import pad_channels

BLOCK_COUNT = 4
WIDTH, EXPANDED, UNITS = 64, 256, 1000


def stem(image: keras.KerasTensor) -> keras.KerasTensor:
    """Apply rows 1-3: 7x7 convolution of stride 2, batch normalization, ReLU, max pooling; 50 -> 25 -> 13 pixels."""
    x = layers.Conv2D(WIDTH, 7, strides=2, padding="same", name="stem_conv")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    return layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)


def bottleneck(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Apply a 1x1, a 3x3 and an expanding 1x1 convolution, and an identity shortcut, zero-padded if channels differ."""
    shortcut = x
    if x.shape[-1] != EXPANDED:
        shortcut = pad_channels(x, EXPANDED)
    x = layers.Conv2D(WIDTH, 1, name=f"{name}_conv1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(layers.BatchNormalization(name=f"{name}_bn1")(x))
    x = layers.Conv2D(WIDTH, 3, padding="same", name=f"{name}_conv2")(x)
    x = layers.ReLU(name=f"{name}_relu2")(layers.BatchNormalization(name=f"{name}_bn2")(x))
    x = layers.Conv2D(EXPANDED, 1, name=f"{name}_conv3")(x)
    return layers.Add(name=f"{name}_add")([x, shortcut])


def body(x: keras.KerasTensor) -> keras.KerasTensor:
    """Apply four bottlenecks and rows 7-11: upsampling, three 1x1 channels, average pooling, flatten, 1,000 units."""
    for block in range(1, BLOCK_COUNT + 1):
        x = bottleneck(x, f"bottleneck{block}")
    x = layers.UpSampling2D(2, name="upsample")(x)
    x = layers.Conv2D(3, 1, name="three_channels")(x)
    x = layers.AveragePooling2D(8, name="average_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(UNITS, name="dense")(x)


def resnet_table1(size: int = 50) -> keras.Model:
    """Build Table 1's network, without the binary head, which is not in the table.

    Args:
        size: Side of a patch, pixels; the table's numbers are for 50. Defaults to 50.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 1000).
    """
    image = keras.Input((size, size, 3), name="image")
    return keras.Model(image, body(stem(image)), name="resnet_table1")
