"""The proposed model, GAN+ResNet: the discriminator's feature map is added to Table 1's ResNet after its stem.

`resnet_features` and `gan_only` have one part of it each.
"""

from collections.abc import Iterable

import keras
from keras import layers

from bcgan.models.discriminator import features_without_spectral_norm, list_blocks
from bcgan.models.resizing import resize
from bcgan.models.resnet_table1 import UNITS, WIDTH, body, stem

UNITS_AND_MEANS = "units_and_means"  # name of the layer


def gan_resnet(
    discriminator: keras.Model, size: int = 50, further_maps: keras.Model | None = None, multi_depth: bool = False
) -> keras.Model:
    """Build the combined network, up to Table 1's 1,000 units.

    The discriminator's map passes a projection and a batch normalization, the gate, whose scale starts at zero. So the
    network starts as Table 1's alone, and training decides how much of the features enters.

    Args:
        discriminator: A trained discriminator; its weights are copied and frozen.
        size: Side of a patch, pixels. Defaults to 50.
        further_maps: Maps patches of the discriminator's size to a list of feature maps that are used too, such as
            `projected_discriminator.projected_features` does. Its trainable weights are trained. Defaults to `None`.
        multi_depth: Whether the means of the discriminator's maps of all blocks, and of the further maps, follow the
            1,000 units. Defaults to False.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 1000), or more with `multi_depth`.
    """
    image = keras.Input((size, size, 3), name="image")
    patch, joined = _resize_for(discriminator, image), joined_block(discriminator)
    blocks = list_blocks(discriminator) if multi_depth else (joined,)
    discriminator_maps = _discriminator_maps(discriminator, blocks, patch)
    extra_maps = further_maps(patch) if further_maps else []
    x = body(_join_features(stem(image), [discriminator_maps[blocks.index(joined)], *extra_maps]))
    if multi_depth:
        x = _append_means(x, [*discriminator_maps, *extra_maps])
    return keras.Model(image, x, name="gan_resnet")


def resnet_features(size: int = 50, further_maps: keras.Model | None = None, multi_depth: bool = False) -> keras.Model:
    """Build `gan_resnet` without the discriminator, to measure what that adds.

    Args:
        size, further_maps, multi_depth: As `gan_resnet` takes them. `further_maps` maps patches of `size` pixels;
            without any this is Table 1's network.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 1000), or more with `multi_depth`.
    """
    image = keras.Input((size, size, 3), name="image")
    maps = further_maps(image) if further_maps else []
    x = body(_join_features(stem(image), maps) if maps else stem(image))
    return keras.Model(image, _append_means(x, maps) if multi_depth else x, name="resnet_features")


def num_random_units(network: keras.Model) -> int:
    """Return how many of the first inputs of a classifier's head are units of Table 1, whose weights start random.

    They are UNITS if the head also reads means of maps, which follow them, else 0.
    """
    inner = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    return UNITS if any(layer.name == UNITS_AND_MEANS for model in inner for layer in model.layers) else 0


def joined_block(discriminator: keras.Model) -> str:
    """Return the block whose map has the size of the stem's output: a quarter of the patch's side, rounded up."""
    side = -(-discriminator.inputs[0].shape[1] // 4)
    return next(block for block in list_blocks(discriminator) if discriminator.get_layer(block).output.shape[1] == side)


def gan_only(discriminator: keras.Model, size: int = 50) -> keras.Model:
    """Build a network of the frozen discriminator's features alone: the standardized mean of every channel and block.

    Args:
        discriminator: A trained discriminator; its weights are copied.
        size: Side of a patch, pixels. Defaults to 50.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, channels of all blocks); at 50 pixels these are 15 times the
        discriminator's width.
    """
    image = keras.Input((size, size, 3), name="image")
    blocks = list_blocks(discriminator)
    maps = _discriminator_maps(discriminator, blocks, _resize_for(discriminator, image))
    pooled = [layers.GlobalAveragePooling2D(name=f"{block}_mean")(x) for block, x in zip(blocks, maps, strict=True)]
    x = layers.Concatenate(name="features")(pooled)
    x = layers.BatchNormalization(center=False, scale=False, name="standardised")(x)
    return keras.Model(image, x, name="gan_only")


def _append_means(units: keras.KerasTensor, maps: list[keras.KerasTensor]) -> keras.KerasTensor:
    """Return Table 1's units after ReLU, and the mean of every channel of each map: float32, (batch, features)."""
    means = [
        layers.GlobalAveragePooling2D(name=f"depth{index}_mean", dtype="float32")(x) for index, x in enumerate(maps, 1)
    ]
    return layers.Concatenate(name=UNITS_AND_MEANS)([layers.ReLU(name="units_relu")(units), *means])


def _join_features(x: keras.KerasTensor, features: list) -> keras.KerasTensor:
    """Add feature maps of any size, resized and projected, to `x` through the gate."""
    features = [
        maps if maps.shape[1:3] == x.shape[1:3] else resize(maps, x.shape[1], f"features_resized{index}")
        for index, maps in enumerate(features)
    ]
    maps = layers.Concatenate(name="features")(features) if len(features) > 1 else features[0]
    maps = layers.Conv2D(WIDTH, 1, use_bias=False, name="features_projection")(maps)
    maps = layers.BatchNormalization(gamma_initializer="zeros", name="features_gate")(maps)
    return layers.Add(name="joint")([x, maps])


def _resize_for(discriminator: keras.Model, image: keras.KerasTensor) -> keras.KerasTensor:
    size = discriminator.inputs[0].shape[1]
    return image if image.shape[1] == size else resize(image, size, f"to_{size}")


def _discriminator_maps(discriminator: keras.Model, blocks: Iterable[str], image: keras.KerasTensor) -> list:
    """Return the maps of some blocks for an image, by a frozen copy of the discriminator."""
    features = features_without_spectral_norm(discriminator, blocks)
    features.trainable = False
    maps = features(image)
    return maps if isinstance(maps, list) else [maps]
