"""How close synthetic patches are to real ones, on the features of a frozen network. Features are float, (n, d).

Every figure means something only beside a floor, real against other real patches, and a ceiling; the network and the
number of samples belong to its name.
"""

import numpy as np
from scipy.linalg import svdvals
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 5  # of the manifold estimates (Naeem et al. 2020)
SUBSETS = 50


def kid(real: np.ndarray, fake: np.ndarray, size: int, seed: int, subsets: int = SUBSETS) -> np.ndarray:
    """Kernel inception distance (Binkowski et al. 2018) of random subsets, (subsets,); its mean is the KID.

    The unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3; both sides are drawn to the same
    size, without replacement.

    Raises:
        ValueError: a side holds fewer than `size` samples.
    """
    if min(len(real), len(fake)) < size:
        raise ValueError(f"size must not exceed the samples. Received: size={size} of {len(real)} and {len(fake)}")
    rng = np.random.default_rng(seed)
    estimates = []
    for _ in range(subsets):
        x = real[rng.choice(len(real), size, replace=False)].astype(np.float64)
        y = fake[rng.choice(len(fake), size, replace=False)].astype(np.float64)
        within = [polynomial_kernel(side) for side in (x, y)]  # scikit-learn's defaults are the KID's kernel
        same = sum((k.sum() - np.trace(k)) / (size * (size - 1)) for k in within)
        estimates.append(same - 2 * polynomial_kernel(x, y).mean())
    return np.array(estimates)


def fid(real: np.ndarray, fake: np.ndarray) -> float:
    """Frechet distance of two Gaussians fitted to the features (Heusel et al. 2017)."""
    means = [side.mean(0, dtype=np.float64) for side in (real, fake)]
    # Factors of the covariances, R.T @ R; the root of their product has the singular values of R1 @ R2.T for a trace.
    first, second = (
        np.linalg.qr((side - mean) / np.sqrt(len(side) - 1), mode="r")
        for side, mean in zip((real, fake), means, strict=True)
    )
    mixed = svdvals(first @ second.T).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (first**2).sum() + (second**2).sum() - 2 * mixed)


def manifold(real: np.ndarray, fake: np.ndarray, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Coverage is the share of real samples with a synthetic one no farther than their own k-th real neighbour.
    """
    real_radius, fake_radius = (_radius(side, neighbours) for side in (real, fake))
    distances = np.sqrt(np.maximum((real**2).sum(1)[:, None] + (fake**2).sum(1) - 2 * real @ fake.T, 0))
    inside = distances <= real_radius[:, None]
    return {
        "precision": float(inside.any(0).mean()),
        "recall": float((distances <= fake_radius).any(1).mean()),
        "density": float(inside.sum(0).mean() / neighbours),
        "coverage": float((distances.min(1) <= real_radius).mean()),
    }


def memorization_rate(training: np.ndarray, fake: np.ndarray, quantile: float = 0.01) -> float:
    """Share of synthetic samples nearer to a training sample than all but `quantile` of training samples are to
    each other; for patches of other patients, which are no copies, it is what they give, not always `quantile`."""
    index = NearestNeighbors(n_neighbors=2).fit(training)
    among = index.kneighbors(training)[0][:, 1]
    to_training = index.kneighbors(fake, n_neighbors=1)[0][:, 0]
    return float((to_training <= np.quantile(among, quantile)).mean())


def _radius(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Distance of each sample to its k-th neighbour, itself not counted."""
    index = NearestNeighbors(n_neighbors=neighbours + 1).fit(features)
    return index.kneighbors(features)[0][:, -1]
