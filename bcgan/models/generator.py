"""The class-conditional generator: noise and a label to a 50x50 patch, growing 4, 7, 13, 25, 50."""

import keras
from keras import layers, ops

SIZES = (7, 13, 25, 50)


def generator(latent: int = 96, width: int = 32, classes: int = 2) -> keras.Model:
    """Build the generator.

    Transposed convolutions as in DCGAN (Radford et al. 2016), whose kernels are a multiple of the stride, so that
    every pixel gets the same number of contributions; odd sizes are cut after doubling.

    Args:
        latent: int. Length of the noise vector. Defaults to 96.
        width: int. Channels before the last convolution. Defaults to 32.
        classes: int. Number of labels. Defaults to 2.

    Returns:
        keras.Model. Inputs `noise` (float32, (batch, latent), standard normal) and `label` (int32, (batch,));
        output `image` (float32 in [0, 1], (batch, 50, 50, 3)).
    """
    noise = keras.Input((latent,), name="noise")
    label = keras.Input((), dtype="int32", name="label")

    meaning = layers.Embedding(classes, latent, name="label_embedding")(label)
    x = layers.Concatenate(name="noise_and_label")([noise, meaning])
    x = layers.Dense(4 * 4 * 8 * width, use_bias=False, name="seed")(x)
    x = layers.Reshape((4, 4, 8 * width), name="seed_map")(x)
    x = layers.ReLU(name="seed_relu")(layers.BatchNormalization(name="seed_bn")(x))

    for number, size in enumerate(SIZES):
        last = number == len(SIZES) - 1
        channels = 3 if last else width * 2 ** (2 - number)
        x = layers.Conv2DTranspose(channels, 4, strides=2, padding="same", use_bias=last, name=f"grow{number + 1}")(x)
        x = x[:, :size, :size] if x.shape[1] != size else x
        if not last:
            x = layers.BatchNormalization(name=f"grow{number + 1}_bn")(x)
            x = layers.ReLU(name=f"grow{number + 1}_relu")(x)

    image = layers.Activation("sigmoid", dtype="float32", name="image")(ops.cast(x, "float32"))
    return keras.Model([noise, label], image, name="generator")
