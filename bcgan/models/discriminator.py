"""The class-conditional discriminator, at 50 pixels 50 -> 25 -> 13 -> 7 -> 4; blocks' maps are reachable by name."""

import re
from collections.abc import Iterable

import keras
from keras import layers, ops

from bcgan.sizes import map_channels

STEM = 16  # channels of the first convolution, which sees fine texture at full resolution


def discriminator(width: int = 32, classes: int = 2, spectral: bool = True, size: int = 50) -> keras.Model:
    """Build the discriminator: strided convolutions that halve the map until its side is at most 6 pixels.

    The label enters after the last block, by projection (Miyato and Koyama 2018), so the feature maps of a patch do not
    depend on its label, and a classifier can use them.

    Args:
        width: An eighth of the last block's channels; at 50 pixels the channels of block1. Defaults to 32.
        classes: Number of labels. Defaults to 2.
        spectral: Whether the convolutions have spectral normalization (Miyato et al. 2018). Defaults to True.
        size: Side of a patch, pixels, from 32 to 256. Defaults to 50.

    Returns:
        keras.Model. Inputs `image` (float32 in [0, 1], (batch, size, size, 3)) and `label` (int32, (batch,));
        output `logit` (float32, (batch, 1)), large for patches that look real. The layers `block1`, `block2`, ... have
        the feature maps: at 50 pixels (25, 25, width), (13, 13, 2 width), (7, 7, 4 width) and (4, 4, 8 width).
    """
    image = keras.Input((size, size, 3), name="image")
    label = keras.Input((), dtype="int32", name="label")

    x = layers.Rescaling(2.0, offset=-1.0, name="to_minus_one_one")(image)
    x = conv_block(x, STEM, 3, 1, "stem", spectral)
    for index, channels in enumerate(map_channels(size, width), 1):
        x = conv_block(x, channels, 4, 2, f"block{index}", spectral)

    features = ops.cast(ops.sum(x, (1, 2)), "float32")
    realness = layers.Dense(1, dtype="float32", name="realness")(features)
    embedding = layers.Embedding(classes, features.shape[-1], dtype="float32", name="label_embedding")(label)
    class_logit = ops.sum(embedding * features, -1, keepdims=True)
    logit = layers.Add(dtype="float32", name="logit")([realness, class_logit])
    return keras.Model([image, label], logit, name="discriminator")


def conv_block(
    x: keras.KerasTensor, channels: int, kernel: int, stride: int, name: str, spectral: bool = True
) -> keras.KerasTensor:
    """Apply a convolution, with spectral normalization by default, and a leaky ReLU.

    The layer `name` is the leaky ReLU, so that the block's feature map is found by that name.
    """
    convolution = layers.Conv2D(channels, kernel, strides=stride, padding="same", name=f"{name}_conv")
    if spectral:
        convolution = layers.SpectralNormalization(convolution, name=f"{name}_spectral")
    return layers.LeakyReLU(0.2, name=name)(convolution(x))


def select_blocks(names: Iterable[str]) -> list[str]:
    """Return those of the names that are a discriminator's blocks, from `block1` on."""
    return sorted(name for name in names if re.fullmatch(r"block\d", name))


def list_blocks(network: keras.Model) -> list[str]:
    """Return the names of a discriminator's blocks, the largest map first."""
    return select_blocks(layer.name for layer in network.layers)


def feature_maps(network: keras.Model, blocks: Iterable[str] | None = None) -> keras.Model:
    """Return the part of a discriminator from its inputs, without the label, to the feature maps of some blocks.

    It shares the discriminator's weights.

    Args:
        blocks: Their names. Defaults to all blocks.
    """
    *inputs, _label = network.inputs
    outputs = [network.get_layer(block).output for block in blocks or list_blocks(network)]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name="discriminator_features")


def features_without_spectral_norm(network: keras.Model, blocks: Iterable[str] | None = None) -> keras.Model:
    """Return a copy of `feature_maps` without spectral normalization, to be part of another network.

    The wrapper SpectralNormalization changes its kernel in every training call, even if it is not trainable. The copy
    has the kernels as the wrapper left them, and gives the same maps.
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
