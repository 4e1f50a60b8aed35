"""The proposed model: the discriminator's feature map joins Table 1's ResNet where that has as many pixels."""

from functools import partial

import keras
from keras import layers

from bcgan.models.discriminator import BLOCKS, plain_features
from bcgan.models.resizing import resized
from bcgan.models.resnet_table1 import UNITS, WIDTH, body, stem

DISCRIMINATOR_SIZE = 50
JOINTS = {"early": "block1", "middle": "block2", "late": "block4"}  # the discriminator's block that joins there


def gan_resnet(
    discriminator: keras.Model,
    size: int = 50,
    frozen: bool = True,
    beside: keras.Model | None = None,
    joint: str = "middle",
) -> keras.Model:
    """Build the merged network, up to Table 1's 1,000 units.

    The map goes through a projection and a batch normalisation whose scale, the gate, starts at zero: at the start
    this is Table 1's network alone, and the features enter only as far as training opens the gate.

    Args:
        discriminator: keras.Model. A trained discriminator; its weights are copied.
        size: int. Side of a patch, pixels. Defaults to 50.
        frozen: bool. Keep the discriminator's weights as they are. Defaults to True.
        beside: keras.Model. Patches of 50 pixels to a list of maps that join too, brought to the joint's size, such as
            `critic.judged_features` gives them; learns as far as it is trainable. Defaults to None.
        joint: string. Where maps join: "early", behind the first convolution (25x25); "middle", behind the pooling
            (13x13); "late", each channel's mean beside the 1,000 units. Defaults to "middle".

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 1000).
    """
    image = keras.Input((size, size, 3), name="image")
    patch = _at_50(image)
    found = _features(discriminator, (JOINTS[joint],), patch, frozen) + (beside(patch) if beside else [])
    join = partial(_joined, found=found)
    if joint == "early":
        x = body(stem(image, join))
    elif joint == "middle":
        x = body(join(stem(image)))
    else:
        x = join(body(stem(image)))
    return keras.Model(image, x, name="gan_resnet")


def gan_only(discriminator: keras.Model, size: int = 50) -> keras.Model:
    """The frozen discriminator's features alone: the mean of every channel of every block, standardised.

    Args:
        discriminator: keras.Model. A trained discriminator; its weights are copied.
        size: int. Side of a patch, pixels. Defaults to 50.

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 15 times the discriminator's width).
    """
    image = keras.Input((size, size, 3), name="image")
    maps = _features(discriminator, BLOCKS, _at_50(image), frozen=True)
    pooled = [layers.GlobalAveragePooling2D(name=f"{block}_mean")(x) for block, x in zip(BLOCKS, maps, strict=True)]
    x = layers.Concatenate(name="features")(pooled)
    x = layers.BatchNormalization(center=False, scale=False, name="standardised")(x)
    return keras.Model(image, x, name="gan_only")


def _joined(x: keras.KerasTensor, found: list) -> keras.KerasTensor:
    """Maps, or units, and what was found beside them, through the gate."""
    if len(x.shape) == 2:
        project = layers.Dense(UNITS, use_bias=False, name="features_projection")
        found = [
            layers.GlobalAveragePooling2D(name=f"features_mean{number}")(maps) for number, maps in enumerate(found)
        ]
    else:
        project = layers.Conv2D(WIDTH, 1, use_bias=False, name="features_projection")
        found = [
            maps if maps.shape[1:3] == x.shape[1:3] else resized(maps, x.shape[1], f"features_resized{number}")
            for number, maps in enumerate(found)
        ]
    maps = layers.Concatenate(name="features")(found) if len(found) > 1 else found[0]
    maps = layers.BatchNormalization(gamma_initializer="zeros", name="features_gate")(project(maps))
    return layers.Add(name="joint")([x, maps])


def _at_50(image: keras.KerasTensor) -> keras.KerasTensor:
    if image.shape[1] == DISCRIMINATOR_SIZE:
        return image
    return resized(image, DISCRIMINATOR_SIZE, "to_50")


def _features(discriminator: keras.Model, blocks: tuple[str, ...], image: keras.KerasTensor, frozen: bool) -> list:
    features = plain_features(discriminator, blocks)
    features.trainable = not frozen
    maps = features(image)
    return maps if isinstance(maps, list) else [maps]
