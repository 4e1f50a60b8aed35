import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from bcgan.gan import quality_filter

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], 400)
FEATURES = RNG.normal(size=(800, 3)) * (1, 2, 0.5) + LABELS[:, None] * 10.0
SELECTOR = quality_filter.fit(FEATURES, LABELS, quantile=0.9, confidence=0.6)


def test_distances_are_mahalanobis_distances_divided_by_the_limit():
    for label, sample in ((0, FEATURES[3]), (1, FEATURES[-3])):
        expected = mahalanobis(sample, SELECTOR.means[label], SELECTOR.precisions[label]) ** 2 / SELECTOR.limits[label]
        ratio = quality_filter.distance_ratio(SELECTOR, sample[None], np.array([label]))
        assert ratio[0] == pytest.approx(expected)


def test_the_limit_accepts_the_set_fraction_of_real_patches():
    assert (quality_filter.distance_ratio(SELECTOR, FEATURES, LABELS) <= 1).mean() == pytest.approx(0.9, abs=0.005)


def test_verdicts_and_their_order():
    benign, malignant = SELECTOR.means
    features = np.stack([benign, benign, benign + 40, benign, malignant])
    probabilities = np.array([0.1, 0.9, 0.1, 0.45, 0.9])
    confidence, distance, verdict = quality_filter.apply(SELECTOR, features, probabilities, np.array([0, 0, 0, 0, 1]))
    names = [quality_filter.RESULTS[v] for v in verdict]
    assert names == ["accepted", "low_confidence", "out_of_distribution", "low_confidence", "accepted"]
    assert distance[0] == pytest.approx(0)
    np.testing.assert_allclose(confidence, [0.9, 0.1, 0.9, 0.55, 0.9])


def test_a_filter_is_the_same_after_saving(tmp_path):
    quality_filter.save(SELECTOR, tmp_path / "quality_filter.npz")
    loaded = quality_filter.load(tmp_path / "quality_filter.npz")
    for values, loaded_values in zip(SELECTOR, loaded, strict=True):
        np.testing.assert_array_equal(values, loaded_values)
