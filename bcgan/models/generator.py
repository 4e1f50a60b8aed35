"""The class-conditional generator: noise and a label to a 50x50 patch, growing 4, 7, 13, 25, 50."""

import keras
from keras import layers, ops

SIZES = (7, 13, 25, 50)
CODE = 128  # length of the code that modulates every layer
STATISTICS_MOMENTUM = 0.9  # Keras's 0.99 flattens the samples of a short training: its statistics lag behind


def generator(latent: int = 96, width: int = 32, classes: int = 2) -> keras.Model:
    """Build the generator.

    Noise and label enter at the first map and again, by self-modulation (Chen et al. 2019), at every layer: without
    it, few thousand steps ended in one picture a class. Maps grow by repeating pixels and a 3x3 convolution, which
    leaves no checkerboard; odd sizes are cut after doubling.

    Args:
        latent: int. Length of the noise vector. Defaults to 96.
        width: int. Channels of the last map. Defaults to 32.
        classes: int. Number of labels. Defaults to 2.

    Returns:
        keras.Model. Inputs `noise` (float32, (batch, latent), standard normal) and `label` (int32, (batch,));
        output `image` (float32 in [0, 1], (batch, 50, 50, 3)).
    """
    noise = keras.Input((latent,), name="noise")
    label = keras.Input((), dtype="int32", name="label")

    meaning = layers.Embedding(
        classes,
        latent,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0),
        name="label_embedding",
    )(label)
    joined = layers.Concatenate(name="noise_and_label")([noise, meaning])
    code = layers.LeakyReLU(0.2, name="code")(layers.Dense(CODE, name="code_dense")(joined))
    x = layers.Dense(4 * 4 * 8 * width, name="seed")(joined)
    x = layers.Reshape((4, 4, 8 * width), name="seed_map")(x)

    for number, (size, channels) in enumerate(zip(SIZES, (4 * width, 2 * width, width, width), strict=True), 1):
        x = _modulated(x, code, f"grow{number}")
        x = layers.UpSampling2D(2, name=f"grow{number}_double")(x)
        x = x[:, :size, :size] if x.shape[1] != size else x
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"grow{number}_conv")(x)

    x = layers.Conv2D(3, 3, padding="same", name="colours")(_modulated(x, code, "last"))
    image = layers.Activation("sigmoid", dtype="float32", name="image")(ops.cast(x, "float32"))
    return keras.Model([noise, label], image, name="generator")


def _modulated(x: keras.KerasTensor, code: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch normalisation whose scale and shift come from the code, then a leaky ReLU."""
    channels = x.shape[-1]
    x = layers.BatchNormalization(center=False, scale=False, momentum=STATISTICS_MOMENTUM, name=f"{name}_bn")(x)
    scale = layers.Dense(channels, name=f"{name}_scale")(code)[:, None, None]
    shift = layers.Dense(channels, name=f"{name}_shift")(code)[:, None, None]
    return layers.LeakyReLU(0.2, name=f"{name}_relu")(x * (1 + scale) + shift)
