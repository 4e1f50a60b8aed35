"""The class-conditional discriminator, 50 -> 25 -> 13 -> 7 -> 4; every block's feature map is reachable by name."""

import keras
from keras import layers, ops

BLOCKS = ("block1", "block2", "block3", "block4")
STEM = 16  # channels at full size, where the grain of a patch is seen before anything is made smaller


def discriminator(width: int = 32, classes: int = 2, spectral: bool = True) -> keras.Model:
    """Build the discriminator.

    The label enters behind the last block, by projection (Miyato and Koyama 2018), so the feature maps of a patch do
    not depend on its label and can be taken where the label is what one wants to know.

    Args:
        width: int. Channels of block1; doubled in every block. Defaults to 32.
        classes: int. Number of labels. Defaults to 2.
        spectral: bool. Spectral normalisation of the convolutions (Miyato et al. 2018). Defaults to True.

    Returns:
        keras.Model. Inputs `image` (float32 in [0, 1], (batch, 50, 50, 3)) and `label` (int32, (batch,));
        output `logit` (float32, (batch, 1)), large for what looks real. Blocks `block1` ... `block4` have shapes (25,
        25, width), (13, 13, 2 width), (7, 7, 4 width), (4, 4, 8 width).
    """
    image = keras.Input((50, 50, 3), name="image")
    label = keras.Input((), dtype="int32", name="label")

    x = layers.Rescaling(2.0, offset=-1.0, name="to_minus_one_one")(image)
    x = convolved(x, STEM, 3, 1, "stem", spectral)
    for number, block in enumerate(BLOCKS):
        x = convolved(x, width * 2**number, 4, 2, block, spectral)

    features = ops.cast(ops.sum(x, (1, 2)), "float32")
    realness = layers.Dense(1, dtype="float32", name="realness")(features)
    meaning = layers.Embedding(classes, features.shape[-1], dtype="float32", name="label_embedding")(label)
    agreement = ops.sum(meaning * features, -1, keepdims=True)
    logit = layers.Add(dtype="float32", name="logit")([realness, agreement])
    return keras.Model([image, label], logit, name="discriminator")


def convolved(x: keras.KerasTensor, channels: int, kernel: int, stride: int, name: str, spectral: bool = True):
    """A convolution and a leaky ReLU, which carries the name."""
    convolution = layers.Conv2D(channels, kernel, strides=stride, padding="same", name=f"{name}_conv")
    if spectral:
        convolution = layers.SpectralNormalization(convolution, name=f"{name}_spectral")
    return layers.LeakyReLU(0.2, name=name)(convolution(x))


def feature_maps(network: keras.Model, blocks: tuple[str, ...] = BLOCKS) -> keras.Model:
    """The part of a discriminator that maps patches, or what else it judges by, to the named blocks' feature maps;
    shares its weights."""
    *inputs, _label = network.inputs
    outputs = [network.get_layer(block).output for block in blocks]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name="discriminator_features")


def plain_features(network: keras.Model, blocks: tuple[str, ...] = BLOCKS) -> keras.Model:
    """As `feature_maps`, but a copy without spectral normalisation, to stand in another network.

    The wrapper moves its kernel in every training call, whatever `trainable` says; outside the GAN's training the
    kernels are what they are, and the copy gives the same maps.
    """
    source = feature_maps(network, blocks)

    def unwrapped(layer: keras.Layer) -> keras.Layer:
        return layer.layer if isinstance(layer, layers.SpectralNormalization) else layer

    def copy(layer: keras.Layer) -> keras.Layer:
        return type(unwrapped(layer)).from_config(unwrapped(layer).get_config())

    plain = keras.models.clone_model(source, clone_function=copy)
    for layer in map(unwrapped, source.layers):
        plain.get_layer(layer.name).set_weights(layer.get_weights())
    return plain
