"""Which synthetic patches of a release repeat others."""

from types import SimpleNamespace

import numpy as np
import pytest

from bcgan.gan.distances import PIXEL_SIDE, prepare
from bcgan.release import privacy, repeats


def test_of_patches_that_repeat_one_another_the_first_is_released():
    row = np.zeros((1, PIXEL_SIDE**2 * 3), np.float32)
    row[0, :7] = 1
    turned = np.ascontiguousarray(np.rot90(row.reshape(1, PIXEL_SIDE, PIXEL_SIDE, 3), 1, (1, 2))).reshape(row.shape)
    first = {"pixels": np.concatenate([row, 3 * row, turned, 3.1 * row]), "features": np.eye(4, dtype=np.float32)}
    second = {"pixels": np.concatenate([row, 9 * row]), "features": 7 * np.ones((2, 4), np.float32)}
    second["features"][1] = [0, 1, 0, 0]
    found = repeats.RepeatFilter({"pixels": 0.5, "features": 0.1})
    assert found.find(first).tolist() == [False, False, True, True]
    assert found.find(second).tolist() == [True, True]  # the second one by its features alone
    # A repeat is not remembered: what is like it alone is released.
    chain = repeats.RepeatFilter({"pixels": 1.5, "features": 0})
    values = {"pixels": np.float32([[0], [1], [2]]) * np.eye(1, row.shape[1], dtype=np.float32)}
    assert chain.find(values | {"features": np.eye(3, dtype=np.float32)}).tolist() == [False, True, False]


def test_a_repeat_is_nearer_than_the_nearest_training_patches_of_its_class_are():
    values = np.float32([0, 1, 3, 6, 10, 100, 100.5, 300])[:, None] * np.ones((1, 4), np.float32) / 2
    sets = SimpleNamespace(training={"features": prepare(values)}, training_rows=np.arange(1, 9))
    labels = np.array([1, 0, 0, 0, 0, 0, 1, 1, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privacy, "PATCH_SPACES", ("features",))
        benign, malignant = repeats.fit_limits(sets, labels, [5, 5])
    assert benign["features"] == pytest.approx(np.quantile([1, 1, 2, 3, 4], 0.01), rel=1e-3)
    assert malignant["features"] == pytest.approx(np.quantile([0.5, 0.5, 199.5], 0.01), rel=1e-3)


def test_the_limit_of_pixels_is_that_of_turned_patches():
    """Without their mean patches cannot be turned: the limit would be too small or too large."""
    rng = np.random.default_rng(0)
    images = rng.random((12, PIXEL_SIDE, PIXEL_SIDE, 3)).astype(np.float32)
    images[:, :, PIXEL_SIDE // 2 :] += 1  # every patch is bright on the right, as padded ones are
    images[6:] = np.rot90(images[:6], 1, (1, 2))
    rows = images.reshape(12, -1)
    sets = SimpleNamespace(training={"pixels": prepare(rows)}, training_rows=np.arange(12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privacy, "PATCH_SPACES", ("pixels",))
        (limits,) = repeats.fit_limits(sets, np.zeros(12, int), [12])
    assert limits["pixels"] == pytest.approx(0, abs=0.01)
