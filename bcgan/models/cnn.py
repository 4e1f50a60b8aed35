"""A plain convolutional network, the paper's third component."""

import keras
from keras import layers


def cnn(size: int = 50, width: int = 32) -> keras.Model:
    """Build a CNN of three blocks (convolution, batch normalization, ReLU, max pooling) and global average pooling.

    Args:
        size: Side of a patch, pixels. Defaults to 50.
        width: Channels of the first block, doubled in each. Defaults to 32.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 4 * width).
    """
    x = image = keras.Input((size, size, 3), name="image")
    for block in range(1, 4):
        x = layers.Conv2D(width * 2 ** (block - 1), 3, padding="same", use_bias=False, name=f"conv{block}")(x)
        x = layers.BatchNormalization(name=f"bn{block}")(x)
        x = layers.ReLU(name=f"relu{block}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    return keras.Model(image, layers.GlobalAveragePooling2D(name="pool")(x), name="cnn")
