"""The proposed model, GAN+ResNet: the discriminator's feature map is added to Table 1's ResNet after its stem."""

import keras
from keras import layers

from bcgan.models.discriminator import BLOCKS, features_without_spectral_norm
from bcgan.models.resizing import resize
from bcgan.models.resnet_table1 import WIDTH, body, stem

DISCRIMINATOR_SIZE = 50
JOINED_BLOCK = "block2"  # of the discriminator, whose map has the size of the stem's output in Table 1, 13x13


def gan_resnet(discriminator: keras.Model, size: int = 50, further_maps: keras.Model | None = None) -> keras.Model:
    """Build the combined network, up to Table 1's 1,000 units.

    The discriminator's map passes a projection and a batch normalization, the gate, whose scale starts at zero. So the
    network starts as Table 1's alone, and training decides how much of the features enters.

    Args:
        discriminator: A trained discriminator; its weights are copied and frozen.
        size: Side of a patch, pixels. Defaults to 50.
        further_maps: Maps patches of 50 pixels to a list of feature maps that are used too, such as
            `projected_discriminator.projected_features` does. Its trainable weights are trained. Defaults to `None`.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 1000).
    """
    image = keras.Input((size, size, 3), name="image")
    patch = _resize_to_50(image)
    features = _discriminator_maps(discriminator, (JOINED_BLOCK,), patch) + (
        further_maps(patch) if further_maps else []
    )
    return keras.Model(image, body(_join_features(stem(image), features)), name="gan_resnet")


def gan_only(discriminator: keras.Model, size: int = 50) -> keras.Model:
    """Build a network of the frozen discriminator's features alone: the standardized mean of every channel and block.

    Args:
        discriminator: A trained discriminator; its weights are copied.
        size: Side of a patch, pixels. Defaults to 50.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 15 times the discriminator's width).
    """
    image = keras.Input((size, size, 3), name="image")
    maps = _discriminator_maps(discriminator, BLOCKS, _resize_to_50(image))
    pooled = [layers.GlobalAveragePooling2D(name=f"{block}_mean")(x) for block, x in zip(BLOCKS, maps, strict=True)]
    x = layers.Concatenate(name="features")(pooled)
    x = layers.BatchNormalization(center=False, scale=False, name="standardised")(x)
    return keras.Model(image, x, name="gan_only")


def _join_features(x: keras.KerasTensor, features: list) -> keras.KerasTensor:
    """Add feature maps, resized and projected, to `x` through the gate."""
    features = [
        maps if maps.shape[1:3] == x.shape[1:3] else resize(maps, x.shape[1], f"features_resized{index}")
        for index, maps in enumerate(features)
    ]
    maps = layers.Concatenate(name="features")(features) if len(features) > 1 else features[0]
    maps = layers.Conv2D(WIDTH, 1, use_bias=False, name="features_projection")(maps)
    maps = layers.BatchNormalization(gamma_initializer="zeros", name="features_gate")(maps)
    return layers.Add(name="joint")([x, maps])


def _resize_to_50(image: keras.KerasTensor) -> keras.KerasTensor:
    if image.shape[1] == DISCRIMINATOR_SIZE:
        return image
    return resize(image, DISCRIMINATOR_SIZE, "to_50")


def _discriminator_maps(discriminator: keras.Model, blocks: tuple[str, ...], image: keras.KerasTensor) -> list:
    features = features_without_spectral_norm(discriminator, blocks)
    features.trainable = False
    maps = features(image)
    return maps if isinstance(maps, list) else [maps]
