"""TensorFlow with oneDNN crashes on one pattern of layers; the networks avoid it."""

from pathlib import Path

import keras
import numpy as np
from keras import layers

from bcgan.models.shortcut import pad_channels
from tests.forked import Forked


def predict_widened() -> None:
    """Run the smallest case known: a convolution with a bias, added to a padded tensor, inside a graph."""
    x = keras.Input((13, 13, 64))
    y = layers.Conv2D(256, 1)(x) + pad_channels(x, 256)
    shape = keras.Model(x, y).predict(np.zeros((4, 13, 13, 64), "float32"), verbose=0).shape
    Path("shape.txt").write_text(str(shape), "utf-8")


def test_widening_by_concatenation_survives_onednn(tmp_path):
    code, stderr = Forked(predict_widened, folder=tmp_path).wait()
    assert code == 0, stderr[-500:]
    assert (tmp_path / "shape.txt").read_text("utf-8") == "(4, 13, 13, 256)"


def test_widening_appends_zeros():
    x = np.ones((1, 2, 2, 3), np.float32)
    wide = np.asarray(pad_channels(x, 9))
    np.testing.assert_array_equal(wide[..., :3], x)
    assert not wide[..., 3:].any()
