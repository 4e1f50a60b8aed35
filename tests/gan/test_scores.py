import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel

from bcgan.gan import scores

RNG = np.random.default_rng(0)
REAL, OTHER, FAR = RNG.normal(size=(300, 6)), RNG.normal(size=(300, 6)), RNG.normal(2, 1, (300, 6))


def test_the_kernel_is_scikit_learns():
    expected = polynomial_kernel(REAL, FAR, degree=3, gamma=1 / 6, coef0=1)
    np.testing.assert_allclose(scores.kernel(REAL, FAR), expected)


def test_kid_of_whole_sets_is_the_unbiased_estimate_by_its_definition():
    x, y = REAL[:40], FAR[:40]
    k = [[scores.kernel(a, b) for b in (x, y)] for a in (x, y)]
    off = ~np.eye(40, dtype=bool)
    expected = k[0][0][off].mean() + k[1][1][off].mean() - 2 * k[0][1].mean()
    np.testing.assert_allclose(scores.kid(x, y, 40, seed=0, subsets=3), expected)


def test_kid_is_about_zero_for_one_distribution_and_large_for_two():
    same, different = scores.kid(REAL, OTHER, 100, 0), scores.kid(REAL, FAR, 100, 0)
    assert abs(same.mean()) < 3 * same.std()
    assert different.mean() > 20 * abs(same.mean())
    with pytest.raises(ValueError, match="size=400"):
        scores.kid(REAL, OTHER, 400, 0)


def test_fid_of_gaussians_and_against_scipys_root():
    assert scores.fid(REAL, REAL) == pytest.approx(0, abs=1e-6)
    assert scores.fid(REAL, REAL + 3) == pytest.approx(6 * 9)
    assert scores.fid(REAL, 2 * REAL) == pytest.approx(np.trace(np.cov(REAL.T)) + (REAL.mean(0) ** 2).sum())
    a, b = np.cov(REAL.T), np.cov(FAR.T)
    expected = ((REAL.mean(0) - FAR.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert scores.fid(REAL, FAR) == pytest.approx(expected)


def test_fid_survives_more_features_than_samples():
    wide = RNG.normal(size=(20, 50))
    assert scores.fid(wide, wide) == pytest.approx(0, abs=1e-4)


def test_manifold_of_the_same_of_collapsed_and_of_distant_samples():
    same = scores.manifold(REAL, OTHER)
    assert min(same["precision"], same["recall"], same["coverage"]) > 0.8
    assert same["density"] == pytest.approx(1, abs=0.2)
    collapsed = scores.manifold(REAL, np.repeat(REAL[:1], 300, 0) + 1e-6)
    assert collapsed["precision"] == 1
    assert collapsed["coverage"] < 0.1
    assert scores.manifold(REAL, REAL + 50)["coverage"] == 0


def test_copies_are_called_memorised():
    assert scores.memorised(REAL, REAL[:100] + 1e-9) == 1
    assert scores.memorised(REAL, OTHER) < 0.05
    half = np.concatenate([REAL[:50], OTHER[:50]])
    assert scores.memorised(REAL, half) == pytest.approx(0.5, abs=0.05)
