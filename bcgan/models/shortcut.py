"""The parameter-free shortcut of He et al. (2016): the identity, padded with zero channels."""

import keras
from keras import ops


def pad_channels(x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
    """Append zero channels; `channels` has to be a multiple of the channels of x.

    This concatenates, as `ops.pad` crashes TensorFlow 2.21 with oneDNN if a convolution with a bias is added to the
    padded tensor (tests/models/test_shortcut.py has the smallest case).
    """
    return ops.concatenate([x] + [ops.zeros_like(x)] * (channels // x.shape[-1] - 1), axis=-1)
