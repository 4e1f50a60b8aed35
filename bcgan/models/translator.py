"""The translator of a cycle-consistent GAN (Zhu et al. 2017), from a patch of one class to a patch of the other.

It is small enough to train on two CPU cores.
"""

import keras
from keras import layers, ops

from bcgan.data.batches import STAINS

RESIDUAL_BLOCKS = 3
EPSILON = 1e-3


def translator(width: int = 24, name: str = "translator") -> keras.Model:
    """Build the translator: a U-Net, 50 -> 25 -> 13 -> 25 -> 50, whose output changes the stains of the patch.

    The output is a change of the amounts of hematoxylin and eosin at every pixel, in optical density. If it could
    change colors freely, it would learn to recolor tissue, even to colors that no stain has, instead of changing its
    structure. An untrained translator leaves the patch unchanged.

    Args:
        width: Channels of the largest maps; doubled at each lower resolution. Defaults to 24.
        name: Of the model. Defaults to "translator".

    Returns:
        keras.Model. float32 in [0, 1], (batch, 50, 50, 3), to the same.
    """
    image = keras.Input((50, 50, 3), name="image")

    x = layers.Rescaling(2.0, offset=-1.0, name="to_minus_one_one")(image)
    full = _conv_block(x, width, 1, "full")
    half = _conv_block(full, 2 * width, 2, "half")
    x = _conv_block(half, 4 * width, 2, "quarter")

    for block in range(1, RESIDUAL_BLOCKS + 1):
        y = _conv_block(x, 4 * width, 1, f"residual{block}_first")
        y = layers.Conv2D(4 * width, 3, padding="same", name=f"residual{block}_second")(y)
        x = layers.Add(name=f"residual{block}")([x, y])

    x = layers.Conv2D(2 * width, 1, name="narrow_half")(x)
    x = layers.UpSampling2D(2, name="double_half")(x)[:, :25, :25]
    x = _conv_block(layers.Add(name="skip_half")([x, half]), 2 * width, 1, "back_half")
    x = layers.Conv2D(width, 1, name="narrow_full")(x)
    x = layers.UpSampling2D(2, name="double_full")(x)
    x = _conv_block(layers.Add(name="skip_full")([x, full]), width, 1, "back_full")

    change = layers.Conv2D(2, 3, padding="same", kernel_initializer="zeros", dtype="float32", name="change")(x)
    density = -ops.log(ops.clip(ops.cast(image, "float32"), 1 / 255, 1.0))
    density = ops.relu(density + ops.matmul(change, ops.convert_to_tensor(STAINS[:2])))
    translated = layers.Activation("linear", dtype="float32", name="translated")(ops.exp(-density))
    return keras.Model(image, translated, name=name)


def _conv_block(x: keras.KerasTensor, channels: int, stride: int, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.GroupNormalization(-1, epsilon=EPSILON, name=f"{name}_norm")(x)
    return layers.LeakyReLU(0.2, name=name)(x)
