"""Bringing patches and maps to another size inside a network."""

import keras
from keras import layers


def resized(
    x: keras.KerasTensor, side: int, name: str, interpolation: str = "bilinear", dtype: str | None = None
) -> keras.KerasTensor:
    """Squares to squares of `side` pixels.

    Keras 3.15's Resizing takes itself to be in training where nobody says otherwise, and the layers behind it inherit
    that: called without `training`, a network would move its statistics and drop units. So it is told.
    """
    return layers.Resizing(side, side, interpolation, name=name, dtype=dtype)(x, training=False)
