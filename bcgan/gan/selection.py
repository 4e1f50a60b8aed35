"""Which synthetic patches may join training: those that a classifier takes for their label, near real ones of it.

The two measures need a network that was trained on real patches; they come in as arrays, so that any will do.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bcgan import runs

VERDICTS = ("selected", "unsure", "far")


class Selector(NamedTuple):
    """What real patches of each class look like in feature space.

    means: (classes, d). precisions: inverse covariances, (classes, d, d). limits: squared Mahalanobis distances that
    the stated share of real patches keep to, (classes,). confidence: least probability of the intended class.
    """

    means: np.ndarray
    precisions: np.ndarray
    limits: np.ndarray
    confidence: float


def fit(features: np.ndarray, labels: np.ndarray, quantile: float, confidence: float) -> Selector:
    """Fit a Gaussian with shrunk covariance (Ledoit and Wolf 2004) to each class.

    Args:
        features: float, (n, d). Of real training patches.
        labels: integers, (n,). 0 benign, 1 malignant.
        quantile: float. Share of real patches whose distance is still accepted.
        confidence: float. Least probability of the intended class.
    """
    from sklearn.covariance import LedoitWolf  # a second that reading what is fitted must not cost

    models = [LedoitWolf().fit(features[labels == label]) for label in (0, 1)]
    limits = [np.quantile(m.mahalanobis(features[labels == label]), quantile) for label, m in enumerate(models)]
    means, precisions = (np.stack([getattr(m, name) for m in models]) for name in ("location_", "precision_"))
    return Selector(means, precisions, np.array(limits), confidence)


def distances(selector: Selector, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of each sample to its label's class, as a share of that class's limit, (n,)."""
    away = features - selector.means[labels]
    squared = [((away @ precision) * away).sum(1) for precision in selector.precisions]
    return np.choose(labels, squared) / selector.limits[labels]


def judge(
    selector: Selector, features: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judge synthetic patches.

    Args:
        features: float, (n, d). On the network that the selector was fitted on.
        probabilities: float, (n,). Of malignancy.
        labels: integers, (n,). The class that was asked for.

    Returns:
        Confidence in the intended class, distance as a share of the limit, and the verdict: index into VERDICTS,
        confidence first. (n,) each.
    """
    labels = np.asarray(labels)
    confidence = np.where(labels == 1, probabilities, 1 - probabilities)
    distance = distances(selector, features, labels)
    verdict = np.where(confidence < selector.confidence, 1, np.where(distance > 1, 2, 0))
    return confidence, distance, verdict


def save(selector: Selector, path: Path) -> None:
    np.savez_compressed(path, **selector._asdict())


def load(path: Path) -> Selector:
    arrays = runs.read_arrays(path)
    return Selector(**arrays | {"confidence": float(arrays["confidence"])})
