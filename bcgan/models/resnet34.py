"""ResNet-34 (He et al. 2016), as the paper's text describes it, with identity or projection shortcuts."""

from typing import Literal

import keras
from keras import layers

from bcgan.models.shortcut import pad_channels

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


def basic_block(x: keras.KerasTensor, channels: int, stride: int, shortcut: str, name: str) -> keras.KerasTensor:
    """Apply two 3x3 convolutions and a shortcut, which is padded or projected if the shapes differ."""
    skip = x
    if stride > 1 or x.shape[-1] != channels:
        if shortcut == "identity":
            skip = pad_channels(x[:, ::stride, ::stride], channels)
        else:
            skip = layers.Conv2D(channels, 1, strides=stride, use_bias=False, name=f"{name}_project")(x)
            skip = layers.BatchNormalization(name=f"{name}_project_bn")(skip)
    x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(layers.BatchNormalization(name=f"{name}_bn1")(x))
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv2")(x)
    x = layers.BatchNormalization(name=f"{name}_bn2")(x)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, skip]))


def resnet34_identity(size: int = 50) -> keras.Model:
    """Build `resnet34` with identity shortcuts."""
    return resnet34(size, "identity")


def resnet34(size: int = 50, shortcut: Literal["identity", "projection"] = "projection") -> keras.Model:
    """Build ResNet-34 up to its pooled features.

    Args:
        size: Side of a patch, pixels. Defaults to 50.
        shortcut: "identity" pads with zero channels, "projection" uses a 1x1 convolution. Defaults to "projection".

    Returns:
        keras.Model. (batch, size, size, 3) to (batch, 512).

    Raises:
        ValueError: If the shortcut is neither of these.
    """
    if shortcut not in ("identity", "projection"):
        raise ValueError(f"shortcut must be identity or projection. Received: shortcut={shortcut!r}")
    image = keras.Input((size, size, 3), name="image")

    x = layers.Conv2D(64, 7, strides=2, padding="same", use_bias=False, name="stem_conv")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, (channels, blocks) in enumerate(STAGES, start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = basic_block(x, channels, stride, shortcut, f"stage{stage}_block{block}")

    return keras.Model(image, layers.GlobalAveragePooling2D(name="pool")(x), name="resnet34")
