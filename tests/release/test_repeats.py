"""Which synthetic patches of a release repeat others."""

from types import SimpleNamespace

import numpy as np
import pytest

from bcgan.release import attacks, privacy, repeats


def test_of_patches_that_repeat_one_another_the_first_is_released():
    row = np.zeros((1, privacy.SIDE**2 * 3), np.float32)
    row[0, :7] = 1
    turned = np.ascontiguousarray(np.rot90(row.reshape(1, privacy.SIDE, privacy.SIDE, 3), 1, (1, 2))).reshape(row.shape)
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
    sets = SimpleNamespace(training={"features": attacks.prepare(values)}, training_rows=np.arange(1, 9))
    labels = np.array([1, 0, 0, 0, 0, 0, 1, 1, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privacy, "PATCH_SPACES", ("features",))
        benign, malignant = repeats.fit_limits(sets, labels, [5, 5])
    assert benign["features"] == pytest.approx(np.quantile([1, 1, 2, 3, 4], 0.01), rel=1e-3)
    assert malignant["features"] == pytest.approx(np.quantile([0.5, 0.5, 199.5], 0.01), rel=1e-3)
