"""Errors at the borders of annotated regions."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bcgan.data.records import UNKNOWN
from bcgan.evaluate import borders, intervals

SIDE, PATCH = 12, 50


def make_slide() -> tuple[np.ndarray, np.ndarray]:
    """Return the corners and labels of a slide of 12x12 patches whose right half is malignant."""
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    return np.stack([PATCH * columns, PATCH * rows], 1), (columns >= SIDE // 2).astype(int)


def test_patches_on_both_sides_of_a_border_are_found():
    coords, labels = make_slide()
    slides = np.full(len(labels), "a")
    columns = coords[:, 0] // PATCH
    expected = (columns == 5) | (columns == 6)
    np.testing.assert_array_equal(borders.find_border_patches(coords, labels, slides, PATCH), expected)
    shifted = coords + np.random.default_rng(0).integers(-3, 4, coords.shape)  # rounded, by a few pixels
    np.testing.assert_array_equal(borders.find_border_patches(shifted, labels, slides, PATCH), expected)
    finer = borders.find_border_patches(4 * coords, labels, slides, 4 * PATCH)
    np.testing.assert_array_equal(finer, expected)


def test_patches_that_touch_at_a_corner_count_but_not_across_slides_or_at_unknown_places():
    coords, labels = np.array([[0, 0], [50, 50], [150, 50]]), np.array([0, 1, 0])
    at_border = borders.find_border_patches(coords, labels, np.array(["a", "a", "a"]), PATCH)
    np.testing.assert_array_equal(at_border, [True, True, False])
    assert not borders.find_border_patches(coords, labels, np.array(["a", "b", "a"]), PATCH).any()
    coords[1] = UNKNOWN
    assert not borders.find_border_patches(coords, labels, np.array(["a", "a", "a"]), PATCH).any()


def test_errors_are_counted_at_borders_and_elsewhere():
    """Half of the patches at the border have the other label's probability; elsewhere one is wrong, in one seed."""
    coords, labels = make_slide()
    at_border = borders.find_border_patches(coords, labels, np.full(len(labels), "a"), PATCH)
    scores = np.where(labels == 1, 0.9, 0.1) + np.random.default_rng(0).uniform(-0.05, 0.05, len(labels))
    swapped = np.flatnonzero(at_border)[::2]
    scores[swapped] = 1 - scores[swapped]
    second = scores.copy()
    second[0] = 1 - second[0]
    predictions = intervals.SeedPredictions({0: scores, 1: second}, {0: 0.5, 1: 0.5})
    patients = np.arange(len(labels)) // SIDE  # a row each, with both classes
    measured = borders.measure(labels, predictions, patients, at_border, (50, 0.95, 0))
    assert (measured["patches"], measured["border_patches"]) == (144, 24)
    assert (measured["errors"], measured["border_errors"]) == (12.5, 12)
    areas = [roc_auc_score(labels[~at_border], values[~at_border]) for values in (scores, second)]
    assert measured["roc_auc_off_border"]["value"] == pytest.approx(np.mean(areas))
    everywhere = np.mean([roc_auc_score(labels, values) for values in (scores, second)])
    assert everywhere < 0.95 < measured["roc_auc_off_border"]["low"]


def test_where_every_patch_is_at_a_border_the_roc_auc_off_borders_is_null():
    """Here the classes alternate, as on a chessboard."""
    coords, _ = make_slide()
    labels = (coords.sum(1) // PATCH) % 2
    at_border = borders.find_border_patches(coords, labels, np.full(len(labels), "a"), PATCH)
    assert at_border.all()
    predictions = intervals.SeedPredictions({0: labels.astype(float)}, {0: 0.5})
    measured = borders.measure(labels, predictions, np.arange(144) % 12, at_border, (50, 0.95, 0))
    assert measured["roc_auc_off_border"] == {"value": None, "low": None, "high": None, "seeds": 1}
    assert measured["errors"] == 0
