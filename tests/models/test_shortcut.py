"""TensorFlow with oneDNN crashes on one pattern of layers; the networks avoid it."""

import subprocess
import sys

import numpy as np

from bcgan.models.shortcut import pad_channels

# The smallest case known: a convolution with a bias, added to a padded tensor, inside a graph.
CASE = """
from bcgan.machine import prepare_environment
prepare_environment()
import keras, numpy as np
from keras import layers, ops
from bcgan.models.shortcut import pad_channels
x = keras.Input((13, 13, 64))
y = layers.Conv2D(256, 1)(x) + {shortcut}
print(keras.Model(x, y).predict(np.zeros((4, 13, 13, 64), "float32"), verbose=0).shape)
"""


def test_widening_by_concatenation_survives_onednn():
    code = CASE.format(shortcut="pad_channels(x, 256)")
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-500:]
    assert "(4, 13, 13, 256)" in process.stdout


def test_widening_appends_zeros():
    x = np.ones((1, 2, 2, 3), np.float32)
    wide = np.asarray(pad_channels(x, 9))
    np.testing.assert_array_equal(wide[..., :3], x)
    assert not wide[..., 3:].any()
