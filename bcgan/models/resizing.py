"""Resize patches and feature maps inside a network."""

import keras
from keras import layers


def resize(
    x: keras.KerasTensor, side: int, name: str, interpolation: str = "bilinear", dtype: str | None = None
) -> keras.KerasTensor:
    """Resize square maps, (batch, side, side, channels), to `side` pixels a side.

    Without `training=False`, Keras 3.15's Resizing runs in training mode by default, and so do the layers after it. A
    network called without `training` would then update its statistics and drop units.
    """
    return layers.Resizing(side, side, interpolation, name=name, dtype=dtype)(x, training=False)
