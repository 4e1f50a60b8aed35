"""The class-conditional generator: noise, a label and pixel noise to a patch, at 50 pixels 4 -> 7 -> 13 -> 25 -> 50.

Pixel noise, one random number for each pixel as in StyleGAN, is the input that is named `grain` in saved models.
"""

import keras
import numpy as np
from keras import layers, ops

from bcgan.sizes import map_channels, map_sizes

PIXEL_NOISE_STDDEV = 0.1  # standard deviation of the initial weights of the pixel noise
CODE_DIM = 128  # length of the code that modulates every layer
BATCH_NORM_MOMENTUM = 0.9  # with Keras's 0.99 the statistics of a short training lag behind, and samples lack contrast


def generator(latent: int = 96, width: int = 32, classes: int = 2, size: int = 50) -> keras.Model:
    """Build the generator, whose maps are the discriminator's in reverse (`bcgan.sizes`).

    Noise and label enter at the first map and, by self-modulation (Chen et al. 2019), at every layer: without it, the
    GAN collapsed to one picture of each class after a few thousand steps. Pixel noise is added to the larger maps
    (Karras et al. 2019), so that the noise vector need not encode texture. Maps grow by nearest-neighbor upsampling and
    a 3x3 convolution, which avoids checkerboard artifacts.

    Args:
        latent: Length of the noise vector. Defaults to 96.
        width: An eighth of the channels of the first map; at 50 pixels the channels of the last. Defaults to 32.
        classes: Number of labels. Defaults to 2.
        size: Side of a patch, pixels, from 32 to 256. Defaults to 50.

    Returns:
        keras.Model. Inputs `noise` (float32, (batch, latent), standard normal), `label` (int32, (batch,)) and `grain`
        (float32, (batch, size, size, 1), standard normal); output `image` (float32 in [0, 1], (batch, size, size, 3)).
    """
    noise = keras.Input((latent,), name="noise")
    label = keras.Input((), dtype="int32", name="label")
    pixel_noise = keras.Input((size, size, 1), name="grain")
    *larger_sizes, first_size = (size, *map_sizes(size))
    *larger_channels, first_channels = map_channels(size, width)
    larger_channels.insert(0, larger_channels[0])  # of the patch itself

    embedding = layers.Embedding(
        classes,
        latent,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0),
        name="label_embedding",
    )(label)
    joined = layers.Concatenate(name="noise_and_label")([noise, embedding])
    code = layers.LeakyReLU(0.2, name="code")(layers.Dense(CODE_DIM, name="code_dense")(joined))
    x = layers.Dense(first_size * first_size * first_channels, name="seed")(joined)
    x = layers.Reshape((first_size, first_size, first_channels), name="seed_map")(x)

    for index, (map_size, channels) in enumerate(zip(larger_sizes[::-1], larger_channels[::-1], strict=True), 1):
        x = _modulate(x, code, f"grow{index}")
        x = layers.UpSampling2D(2, name=f"grow{index}_double")(x)
        if x.shape[1] == map_size:
            padding = "same"
        else:  # one pixel too many: padded on one side only, as cropping has a slow gradient
            x, padding = layers.ZeroPadding2D(((1, 0), (1, 0)), name=f"grow{index}_pad")(x), "valid"
        x = layers.Conv2D(channels, 3, padding=padding, use_bias=False, name=f"grow{index}_conv")(x)
        if index > 1:  # the first map is too small for texture
            step = 2 ** (len(larger_sizes) - index)
            # Created here, not on import: an initializer draws its seed from the global generator.
            initializer = keras.initializers.RandomNormal(stddev=PIXEL_NOISE_STDDEV)
            convolution = layers.Conv2D(
                channels, 1, use_bias=False, kernel_initializer=initializer, name=f"grow{index}_grain"
            )
            x = x + convolution(pixel_noise[:, ::step, ::step])

    x = layers.Conv2D(3, 3, padding="same", name="colours")(_modulate(x, code, "last"))
    image = layers.Activation("sigmoid", dtype="float32", name="image")(ops.cast(x, "float32"))
    return keras.Model([noise, label, pixel_noise], image, name="generator")


def recalibrate_batch_norm(network: keras.Model, seed: int, batches: int, batch: int = 256) -> keras.Model:
    """Return a copy of an averaged generator with batch statistics of its own feature maps.

    These are the standing statistics of Brock et al. (2019). The averaged statistics of a training are those of weights
    before averaging, whose maps vary more: with them, patches lack contrast.

    Args:
        network: As `generator` builds it; it is not changed.
        seed: Of the noise.
        batches: Number of batches that the statistics are estimated from.
        batch: Patches in a batch, as many of each class. Defaults to 256.
    """
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    norms = [layer for layer in copy.layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    rng, labels = np.random.default_rng(seed), np.arange(batch, dtype=np.int32) % num_labels(network)
    noise_shape, pixel_noise_shape = ((batch, *copy.inputs[index].shape[1:]) for index in (0, 2))
    for index in range(batches):
        for layer in norms:
            layer.momentum = index / (index + 1)  # the mean of all batches so far
        noise = rng.standard_normal(noise_shape, np.float32)
        pixel_noise = rng.standard_normal(pixel_noise_shape, np.float32)
        copy([noise, labels, pixel_noise], training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return copy


def num_labels(network: keras.Model) -> int:
    """Return the number of labels of a generator or discriminator."""
    return network.get_layer("label_embedding").input_dim


def scale_latent_input(network: keras.Model, factor: float) -> None:
    """Multiply the weights that read a trained generator's noise by a factor, as if the noise were multiplied by it.

    A factor above one makes patches more varied and less typical: the opposite of truncation (Brock et al. 2019).
    """
    latent_dim = network.inputs[0].shape[1]
    for name in ("code_dense", "seed"):
        kernel = network.get_layer(name).kernel
        # The first rows read the noise; those after it read the label and are not scaled.
        scale = np.where(np.arange(kernel.shape[0]) < latent_dim, factor, 1.0)
        kernel.assign(kernel * scale[:, None].astype(np.float32))


def _modulate(x: keras.KerasTensor, code: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Normalize `x` by batch, with scale and shift computed from the code, (batch, CODE_DIM); then leaky ReLU."""
    channels = x.shape[-1]
    x = layers.BatchNormalization(center=False, scale=False, momentum=BATCH_NORM_MOMENTUM, name=f"{name}_bn")(x)
    scale = layers.Reshape((1, 1, channels))(layers.Dense(channels, name=f"{name}_scale")(code))
    shift = layers.Reshape((1, 1, channels))(layers.Dense(channels, name=f"{name}_shift")(code))
    return layers.LeakyReLU(0.2, name=f"{name}_relu")(x * (1 + scale) + shift)
