"""The translator of a cycle-consistent GAN (Zhu et al. 2017), from a patch of one class to a patch of the other.

It is small enough to train on two CPU cores.
"""

import keras
from keras import layers, ops

from bcgan.data.batches import STAINS
from bcgan.sizes import map_sizes

SCALES = ("full", "half", "quarter", "eighth", "sixteenth")  # of the maps, by number of halvings
RESIDUAL_BLOCKS = 3
EPSILON = 1e-3


def translator(width: int = 24, name: str = "translator", size: int = 50) -> keras.Model:
    """Build the translator: a U-Net, at 50 pixels 50 -> 25 -> 13 -> 25 -> 50, whose output changes the patch's stains.

    It halves the maps two times fewer than the discriminator (`bcgan.sizes`), to 12 to 24 pixels.

    The output is a change of the amounts of hematoxylin and eosin at every pixel, in optical density. If it could
    change colors freely, it would learn to recolor tissue, even to colors that no stain has, instead of changing its
    structure. An untrained translator leaves the patch unchanged.

    Args:
        width: Channels of the largest maps; doubled at each lower resolution, up to 4 times as many. Defaults to 24.
        name: Of the model. Defaults to "translator".
        size: Side of a patch, pixels, from 32 to 256. Defaults to 50.

    Returns:
        keras.Model. float32 in [0, 1], (batch, size, size, 3), to the same.
    """
    image = keras.Input((size, size, 3), name="image")
    scales = SCALES[: len(map_sizes(size)) - 1]
    channels = [width * min(2**index, 4) for index in range(len(scales))]

    x = layers.Rescaling(2.0, offset=-1.0, name="to_minus_one_one")(image)
    skips = []
    for index, scale in enumerate(scales):
        x = _conv_block(x, channels[index], 2 if index else 1, scale)
        skips.append(x)

    for block in range(1, RESIDUAL_BLOCKS + 1):
        y = _conv_block(x, channels[-1], 1, f"residual{block}_first")
        y = layers.Conv2D(channels[-1], 3, padding="same", name=f"residual{block}_second")(y)
        x = layers.Add(name=f"residual{block}")([x, y])

    for index in reversed(range(len(scales) - 1)):
        scale, skip = scales[index], skips[index]
        x = layers.Conv2D(channels[index], 1, name=f"narrow_{scale}")(x)
        x = layers.UpSampling2D(2, name=f"double_{scale}")(x)
        if x.shape[1] > skip.shape[1]:  # the side was odd
            x = x[:, : skip.shape[1], : skip.shape[1]]
        x = _conv_block(layers.Add(name=f"skip_{scale}")([x, skip]), channels[index], 1, f"back_{scale}")

    change = layers.Conv2D(2, 3, padding="same", kernel_initializer="zeros", dtype="float32", name="change")(x)
    density = -ops.log(ops.clip(ops.cast(image, "float32"), 1 / 255, 1.0))
    density = ops.relu(density + ops.matmul(change, ops.convert_to_tensor(STAINS[:2])))
    translated = layers.Activation("linear", dtype="float32", name="translated")(ops.exp(-density))
    return keras.Model(image, translated, name=name)


def _conv_block(x: keras.KerasTensor, channels: int, stride: int, name: str) -> keras.KerasTensor:
    """Apply a 3x3 convolution, a normalization of each channel of each patch, and a leaky ReLU."""
    x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.GroupNormalization(-1, epsilon=EPSILON, name=f"{name}_norm")(x)
    return layers.LeakyReLU(0.2, name=name)(x)
