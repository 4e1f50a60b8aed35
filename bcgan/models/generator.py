"""The class-conditional generator: noise, a label and grain to a 50x50 patch, growing 4, 7, 13, 25, 50."""

import keras
import numpy as np
from keras import layers, ops

SIZES = (7, 13, 25, 50)
GRAINY = (13, 25, 50)
GRAIN_START = 0.1  # standard deviation of the grain's first weights
CODE = 128  # length of the code that modulates every layer
STATISTICS_MOMENTUM = 0.9  # Keras's 0.99 flattens the samples of a short training: its statistics lag behind


def generator(latent: int = 96, width: int = 32, classes: int = 2) -> keras.Model:
    """Build the generator.

    Noise and label enter at the first map and again, by self-modulation (Chen et al. 2019), at every layer: without
    it, few thousand steps ended in one picture a class. Grain, one random number a pixel, is added to the larger maps
    (Karras et al. 2019), so that texture need not be drawn from the noise vector. Maps grow by repeating pixels and a
    3x3 convolution, which leaves no checkerboard.

    Args:
        latent: int. Length of the noise vector. Defaults to 96.
        width: int. Channels of the last map. Defaults to 32.
        classes: int. Number of labels. Defaults to 2.

    Returns:
        keras.Model. Inputs `noise` (float32, (batch, latent), standard normal), `label` (int32, (batch,)) and `grain`
        (float32, (batch, 50, 50, 1), standard normal); output `image` (float32 in [0, 1], (batch, 50, 50, 3)).
    """
    noise = keras.Input((latent,), name="noise")
    label = keras.Input((), dtype="int32", name="label")
    grain = keras.Input((50, 50, 1), name="grain")

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
        if x.shape[1] == size:
            padding = "same"
        else:  # one pixel too many: padded on one side alone; cutting it off instead has a slow gradient
            x, padding = layers.ZeroPadding2D(((1, 0), (1, 0)), name=f"grow{number}_pad")(x), "valid"
        x = layers.Conv2D(channels, 3, padding=padding, use_bias=False, name=f"grow{number}_conv")(x)
        if size in GRAINY:
            step = -(-50 // size)
            # Made here, not on import: an initializer draws its seed from the global generator.
            first = keras.initializers.RandomNormal(stddev=GRAIN_START)
            convolution = layers.Conv2D(
                channels, 1, use_bias=False, kernel_initializer=first, name=f"grow{number}_grain"
            )
            x = x + convolution(grain[:, ::step, ::step])

    x = layers.Conv2D(3, 3, padding="same", name="colours")(_modulated(x, code, "last"))
    image = layers.Activation("sigmoid", dtype="float32", name="image")(ops.cast(x, "float32"))
    return keras.Model([noise, label, grain], image, name="generator")


def settled(network: keras.Model, seed: int, batches: int, batch: int = 256) -> keras.Model:
    """A copy of an averaged generator whose normalisations go by its own maps (Brock et al. 2019: standing statistics).

    Statistics that were averaged along with the weights are those of the weights before averaging, whose maps vary
    more: with them every patch comes out too flat.

    Args:
        network: keras.Model. As `generator` builds it; it stays as it is.
        seed: int. Of the noise from which `batches` of `batch` patches, half of each class, are made.
    """
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    normalisations = [layer for layer in copy.layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in normalisations]
    rng, labels = np.random.default_rng(seed), np.arange(batch, dtype=np.int32) % 2
    shapes = [(batch, *copy.inputs[place].shape[1:]) for place in (0, 2)]
    for number in range(batches):
        for layer in normalisations:
            layer.momentum = number / (number + 1)  # the mean of all batches so far
        noise, grain = (rng.standard_normal(shape, np.float32) for shape in shapes)
        copy([noise, labels, grain], training=True)
    for layer, momentum in zip(normalisations, momenta, strict=True):
        layer.momentum = momentum
    return copy


def widen(network: keras.Model, spread: float) -> None:
    """Have a trained generator take its noise for so many times as large: patches differ more, and stray more.

    The opposite of truncation (Brock et al. 2019), for a generator whose patches are too much alike.
    """
    latent = network.inputs[0].shape[1]
    for name in ("code_dense", "seed"):
        kernel = network.get_layer(name).kernel
        scale = np.where(np.arange(kernel.shape[0]) < latent, spread, 1.0)  # the label's rows stay
        kernel.assign(kernel * scale[:, None].astype(np.float32))


def _modulated(x: keras.KerasTensor, code: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch normalisation whose scale and shift come from the code, then a leaky ReLU."""
    channels = x.shape[-1]
    x = layers.BatchNormalization(center=False, scale=False, momentum=STATISTICS_MOMENTUM, name=f"{name}_bn")(x)
    scale = layers.Reshape((1, 1, channels))(layers.Dense(channels, name=f"{name}_scale")(code))
    shift = layers.Reshape((1, 1, channels))(layers.Dense(channels, name=f"{name}_shift")(code))
    return layers.LeakyReLU(0.2, name=f"{name}_relu")(x * (1 + scale) + shift)
