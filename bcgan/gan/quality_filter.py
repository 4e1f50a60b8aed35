"""The quality filter: accept synthetic patches that a classifier assigns to their label and that lie near real ones.

Confidence and features come from a network that was trained on real patches. They are passed in as arrays, so the
filter does not depend on the kind of network.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bcgan import runs
from bcgan.classes import count_classes

RESULTS = ("accepted", "low_confidence", "out_of_distribution")


class QualityFilter(NamedTuple):
    """A Gaussian for each class of real patches in feature space, and the limits of what is accepted.

    Attributes:
        means: (classes, d).
        precisions: Inverse covariances, (classes, d, d).
        limits: Largest accepted squared Mahalanobis distance to each class, (classes,).
        confidence: Smallest accepted probability of the intended class.
    """

    means: np.ndarray
    precisions: np.ndarray
    limits: np.ndarray
    confidence: float


def fit(features: np.ndarray, labels: np.ndarray, quantile: float, confidence: float) -> QualityFilter:
    """Fit a Gaussian with shrunk covariance (Ledoit and Wolf 2004) to each class.

    Args:
        features: float, (n, d). Of real training patches.
        labels: integers, (n,). Every class has to occur.
        quantile: Share of real patches whose distance is still accepted.
        confidence: Smallest accepted probability of the intended class.
    """
    from sklearn.covariance import LedoitWolf  # takes a second to import, which loading a filter does not need

    means, precisions, limits = [], [], []
    for label in range(count_classes(labels)):
        class_features = features[labels == label]
        model = LedoitWolf().fit(class_features)
        means.append(model.location_)
        precisions.append(model.precision_)
        limits.append(np.quantile(model.mahalanobis(class_features), quantile))
    return QualityFilter(np.stack(means), np.stack(precisions), np.array(limits), confidence)


def distance_ratio(fitted: QualityFilter, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's squared Mahalanobis distance to its label's class, divided by that class's limit; (n,)."""
    difference = features - fitted.means[labels]
    squared = [((difference @ precision) * difference).sum(1) for precision in fitted.precisions]
    return np.choose(labels, squared) / fitted.limits[labels]


def apply(
    fitted: QualityFilter, features: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Filter synthetic patches.

    Args:
        fitted: From `fit`.
        features: float, (n, d). Of the network that the filter was fitted on.
        probabilities: float, by the same network: of malignancy, (n,), or of each class, (n, classes).
        labels: integers, (n,). The class that each patch was generated for.

    Returns:
        Three arrays, (n,): the probability of the intended class; the distance ratio, where 1 is the limit; and the
        result, an index into RESULTS. A patch that fails both tests counts as low_confidence.
    """
    labels = np.asarray(labels)
    confidence = probabilities_of(probabilities, labels)
    distance = distance_ratio(fitted, features, labels)
    result = np.where(confidence < fitted.confidence, 1, np.where(distance > 1, 2, 0))
    return confidence, distance, result


def probabilities_of(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each patch's probability of its label, (n,).

    Args:
        probabilities: float, of the second class, (n,), or of each class, (n, classes).
        labels: integers, (n,).
    """
    if probabilities.ndim == 1:
        return np.where(labels == 1, probabilities, 1 - probabilities)
    return probabilities[np.arange(len(labels)), labels]


def save(fitted: QualityFilter, path: Path) -> None:
    """Write a filter to a .npz file."""
    np.savez_compressed(path, **fitted._asdict())


def load(path: Path) -> QualityFilter:
    """Read a filter from a .npz file."""
    arrays = runs.read_arrays(path)
    return QualityFilter(**arrays | {"confidence": float(arrays["confidence"])})
