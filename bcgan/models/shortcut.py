"""The parameter-free shortcut of He et al. (2016): the identity, padded with zero channels."""

import keras
from keras import ops


def widen(x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
    """Append zero channels; `channels` is a multiple of those that x has.

    Concatenation, not `ops.pad`: TensorFlow 2.21 with oneDNN ends the process where a convolution with a bias is
    added to a padded tensor (tests/models/test_shortcut.py has the smallest case).
    """
    return ops.concatenate([x] + [ops.zeros_like(x)] * (channels // x.shape[-1] - 1), axis=-1)
