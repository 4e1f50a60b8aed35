"""Measure how similar synthetic patches are to real ones, in features of a frozen network; features are float, (n, d).

A score has to be compared with a floor (real patches against other real patches) and a ceiling. Scores of different
networks or numbers of samples are not comparable.
"""

import numpy as np
from scipy.linalg import svdvals
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from bcgan.gan import distances

NUM_NEIGHBORS = 5  # k of precision, recall, density and coverage (Naeem et al. 2020)
NUM_SUBSETS = 50
MAX_LIMIT_ROWS = 2000  # training images whose nearest other one is searched for in all orientations
ROUNDING = 0.01  # of distances between images, which are computed in single precision


def kid(real: np.ndarray, fake: np.ndarray, subset_size: int, seed: int, subsets: int = NUM_SUBSETS) -> np.ndarray:
    """Return the kernel inception distance (Binkowski et al. 2018) of random subsets, (subsets,); its mean is the KID.

    It is the unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3. Subsets are drawn without
    replacement.

    Args:
        real, fake: float, (n, d).
        subset_size: Samples of each in a subset.

    Raises:
        ValueError: If there are fewer than `subset_size` real or synthetic samples.
    """
    if min(len(real), len(fake)) < subset_size:
        raise ValueError(
            "subset_size must not exceed the number of samples. Received: "
            f"subset_size={subset_size} of {len(real)} and {len(fake)}"
        )
    rng = np.random.default_rng(seed)
    estimates = []
    for _ in range(subsets):
        x = real[rng.choice(len(real), subset_size, replace=False)].astype(np.float64)
        y = fake[rng.choice(len(fake), subset_size, replace=False)].astype(np.float64)
        kernels = [polynomial_kernel(samples) for samples in (x, y)]  # scikit-learn's defaults are the KID's kernel
        num_pairs = subset_size * (subset_size - 1)
        within = sum((kernel.sum() - np.trace(kernel)) / num_pairs for kernel in kernels)
        estimates.append(within - 2 * polynomial_kernel(x, y).mean())
    return np.array(estimates)


def fid(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the Frechet distance of two Gaussians fitted to features, (n, d) each (Heusel et al. 2017)."""
    real_mean, real_factor = _mean_and_factor(real)
    fake_mean, fake_factor = _mean_and_factor(fake)
    # The trace of the square root of the product of the covariances: the singular values are the square roots of
    # the eigenvalues of that product.
    trace = svdvals(real_factor @ fake_factor.T).sum()
    return float(((real_mean - fake_mean) ** 2).sum() + (real_factor**2).sum() + (fake_factor**2).sum() - 2 * trace)


def _mean_and_factor(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of features and an upper triangular matrix R; R.T @ R is their covariance."""
    mean = features.mean(0, dtype=np.float64)
    return mean, np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")


def prdc(real: np.ndarray, fake: np.ndarray, neighbors: int = NUM_NEIGHBORS) -> dict[str, float]:
    """Return improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Coverage is the fraction of real samples with a synthetic one at most as far away as their own k-th real neighbor.

    Returns:
        The four values by the keys precision, recall, density and coverage.
    """
    real_radius, fake_radius = (_neighbor_distances(features, neighbors) for features in (real, fake))
    # (real, fake), by |x|^2 + |y|^2 - 2 x.y, which needs less memory than the differences.
    between = np.sqrt(np.maximum((real**2).sum(1)[:, None] + (fake**2).sum(1) - 2 * real @ fake.T, 0))
    is_in_real_ball = between <= real_radius[:, None]
    return {
        "precision": float(is_in_real_ball.any(0).mean()),
        "recall": float((between <= fake_radius).any(1).mean()),
        "density": float(is_in_real_ball.sum(0).mean() / neighbors),
        "coverage": float((between.min(1) <= real_radius).mean()),
    }


def memorization_rate(training: np.ndarray, fake: np.ndarray, quantile: float = 0.01, side: int | None = None) -> float:
    """Return the fraction of synthetic samples that are very near to a training sample, as copies would be.

    Very near means: at most the given quantile of the distances of training samples to their nearest other one. Real
    patches of other patients, which are not copies, give a reference value; it is not always equal to `quantile`.

    Args:
        training, fake: float, (n, d).
        side: If rows are images, their side in pixels: they are compared in all orientations, and the quantile is that
            of MAX_LIMIT_ROWS training samples. Defaults to `None`.
    """
    if side is None:
        index = NearestNeighbors(n_neighbors=2).fit(training)
        limit = np.quantile(index.kneighbors(training)[0][:, 1], quantile)
        return float((index.kneighbors(fake, n_neighbors=1)[0][:, 0] <= limit).mean())
    rows = np.linspace(0, len(training) - 1, min(len(training), MAX_LIMIT_ROWS)).astype(int)
    references = distances.prepare(training)
    between_training = distances.nearest(training[rows], references, side, own_rows=rows).distances
    to_training = distances.nearest(fake, references, side).distances
    return float((to_training <= max(np.quantile(between_training, quantile), ROUNDING)).mean())


def repetition_rate(
    real: np.ndarray, fake: np.ndarray, num_classes: int, quantile: float = 0.01, side: int | None = None
) -> float:
    """Return the fraction of synthetic samples that are very near to another synthetic sample of their class.

    Very near means: at most the given quantile of the distances of real samples to their nearest other one of the same
    class. Repeated samples raise the fraction, and so does a low variety as a whole. Real patches of other patients
    give a reference value; it is not always equal to `quantile`.

    Args:
        real, fake: float, (n, d). Sorted by class, with the same number of samples of each class.
        side: If rows are images, their side in pixels: they are compared in all orientations. Defaults to `None`.
    """
    rates = []
    for real_rows, fake_rows in zip(np.split(real, num_classes), np.split(fake, num_classes), strict=True):
        between_real, between_fake = (_nearest_other_distances(rows, side) for rows in (real_rows, fake_rows))
        limit = np.quantile(between_real, quantile)
        rates.append((between_fake <= (limit if side is None else max(limit, ROUNDING))).mean())
    return float(np.mean(rates))


def _nearest_other_distances(rows: np.ndarray, side: int | None) -> np.ndarray:
    """Return the distance of each row to the nearest other one, (n,); `side` is as in `repetition_rate`."""
    if side is None:
        return _neighbor_distances(rows, 1)
    return distances.nearest(rows, rows, side, own_rows=np.arange(len(rows))).distances


def _neighbor_distances(features: np.ndarray, neighbors: int) -> np.ndarray:
    """Return the distance of each sample to its k-th neighbor, not counting itself; (n,)."""
    index = NearestNeighbors(n_neighbors=neighbors + 1).fit(features)
    return index.kneighbors(features)[0][:, -1]
