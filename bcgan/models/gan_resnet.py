"""The proposed model: the discriminator's feature map joins Table 1's ResNet where that has as many pixels."""

import keras
from keras import layers

from bcgan.models.discriminator import BLOCKS, plain_features
from bcgan.models.resizing import resized
from bcgan.models.resnet_table1 import WIDTH, body, stem

DISCRIMINATOR_SIZE = 50
JOINED_BLOCK = "block2"  # of the discriminator: as many pixels as Table 1's network has behind its stem, 13x13


def gan_resnet(discriminator: keras.Model, size: int = 50, further_maps: keras.Model | None = None) -> keras.Model:
    """Build the merged network, up to Table 1's 1,000 units.

    The map goes through a projection and a batch normalisation whose scale, the gate, starts at zero: at the start
    this is Table 1's network alone, and the features enter only as far as training opens the gate.

    Args:
        discriminator: keras.Model. A trained discriminator; its weights are copied and stay as they are.
        size: int. Side of a patch, pixels. Defaults to 50.
        further_maps: keras.Model. Patches of 50 pixels to a list of maps that join too, at the joint's size, such as
            `projected_discriminator.projected_features` gives them; learns as far as it is trainable. Defaults to None.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 1000).
    """
    image = keras.Input((size, size, 3), name="image")
    patch = _at_50(image)
    features = _features(discriminator, (JOINED_BLOCK,), patch) + (further_maps(patch) if further_maps else [])
    return keras.Model(image, body(_joined(stem(image), features)), name="gan_resnet")


def gan_only(discriminator: keras.Model, size: int = 50) -> keras.Model:
    """The frozen discriminator's features alone: the mean of every channel of every block, standardised.

    Args:
        discriminator: keras.Model. A trained discriminator; its weights are copied.
        size: int. Side of a patch, pixels. Defaults to 50.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 15 times the discriminator's width).
    """
    image = keras.Input((size, size, 3), name="image")
    maps = _features(discriminator, BLOCKS, _at_50(image))
    pooled = [layers.GlobalAveragePooling2D(name=f"{block}_mean")(x) for block, x in zip(BLOCKS, maps, strict=True)]
    x = layers.Concatenate(name="features")(pooled)
    x = layers.BatchNormalization(center=False, scale=False, name="standardised")(x)
    return keras.Model(image, x, name="gan_only")


def _joined(x: keras.KerasTensor, features: list) -> keras.KerasTensor:
    """Maps and the features that join them, through the gate."""
    features = [
        maps if maps.shape[1:3] == x.shape[1:3] else resized(maps, x.shape[1], f"features_resized{number}")
        for number, maps in enumerate(features)
    ]
    maps = layers.Concatenate(name="features")(features) if len(features) > 1 else features[0]
    maps = layers.Conv2D(WIDTH, 1, use_bias=False, name="features_projection")(maps)
    maps = layers.BatchNormalization(gamma_initializer="zeros", name="features_gate")(maps)
    return layers.Add(name="joint")([x, maps])


def _at_50(image: keras.KerasTensor) -> keras.KerasTensor:
    if image.shape[1] == DISCRIMINATOR_SIZE:
        return image
    return resized(image, DISCRIMINATOR_SIZE, "to_50")


def _features(discriminator: keras.Model, blocks: tuple[str, ...], image: keras.KerasTensor) -> list:
    features = plain_features(discriminator, blocks)
    features.trainable = False
    maps = features(image)
    return maps if isinstance(maps, list) else [maps]
