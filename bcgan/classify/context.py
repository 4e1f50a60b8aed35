"""Spatial context: refine a patch's prediction by those of the patches around it, if their coordinates are known.

Carcinoma grows in regions. A logistic regression, fitted on validation patients, combines a patch's own log odds with
three averages of its neighbors' log odds, whose weights decrease with distance at different rates. With more than two
classes these are the logits of each class, and the regression is multinomial. The averages shrink
to zero if there are few neighbors, so the model works on complete slides and on scattered samples of patches.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from bcgan.classify.calibration import to_logits, to_probabilities
from bcgan.data.records import UNKNOWN

RADII = (1.5, 4.0, 12.0)  # distances, in patches, at which the weight of a neighbor is 1/e
SHRINKAGE = 1.0  # weight of a zero that is part of every average
CHUNK_PATCHES = 2048  # largest number of patches whose distances are computed at a time
MAX_DISTANCES = 2**24  # largest number of distances that are computed at a time


class Context(NamedTuple):
    """The fitted logistic regression on log odds."""

    # (1 + len(RADII),), of the patch's own log odds and of each average; of more than two classes a list for each, of
    # the patch's own logits and of each average of them
    coefficients: list[float] | list[list[float]]
    intercept: float | list[float]  # of each class, if there are more than two


def has_coordinates(coords: np.ndarray) -> bool:
    """Return whether any patch has coordinates; a data set without coordinates has UNKNOWN for all of them."""
    return bool((coords != UNKNOWN).any())


def fit(
    probabilities: np.ndarray, coords: np.ndarray, slides: np.ndarray, labels: np.ndarray, patch_px: int
) -> Context:
    """Fit the regression to the predictions for validation patches.

    Args:
        probabilities: float in [0, 1], each patch by itself: of the second of two classes, (n,), or of each class,
            (n, classes).
        coords: integers, (n, 2). x and y of the upper left corners, pixels at the scale of the patches.
        slides: (n,). The slide, or the patient, of each patch; only patches of the same one are neighbors.
        labels: integers, (n,).
        patch_px: Side of a patch, pixels at the same scale.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import, which prediction does not need

    features = context_features(probabilities, coords, slides, patch_px)
    model = LogisticRegression().fit(features, labels)
    if np.ndim(probabilities) == 1:
        return Context(model.coef_[0].tolist(), float(model.intercept_[0]))
    return Context(model.coef_.tolist(), model.intercept_.tolist())


def apply(
    context: Context, probabilities: np.ndarray, coords: np.ndarray, slides: np.ndarray, patch_px: int
) -> np.ndarray:
    """Return probabilities refined by those of the neighbors, of the same shape. Arguments as in `fit`."""
    features = context_features(probabilities, coords, slides, patch_px)
    return to_probabilities(features @ np.transpose(context.coefficients) + context.intercept)


def has_neighbors(coords: np.ndarray, patch_px: int) -> np.ndarray:
    """Return whether each patch of a slide has another within the largest radius; bool, (n,). Arguments as in `fit`."""
    if len(coords) < 2:
        return np.zeros(len(coords), bool)
    # The nearest patch of each patch is itself; the second one is its neighbor.
    distance = cKDTree(coords).query(coords, 2)[0][:, 1]
    return distance <= RADII[-1] * patch_px


def context_features(probabilities: np.ndarray, coords: np.ndarray, slides: np.ndarray, patch_px: int) -> np.ndarray:
    """Return the log odds of each patch and the averages of its neighbors at each radius; float (n, 1 + len(RADII)).

    With more than two classes, each is the logits of all classes: float (n, classes * (1 + len(RADII))). Arguments as
    in `fit`.
    """
    logits = to_logits(probabilities).reshape(len(probabilities), -1)
    features = np.zeros((len(logits), 1 + len(RADII), logits.shape[1]))
    features[:, 0] = logits
    for slide in np.unique(slides):
        rows = np.flatnonzero((slides == slide) & (coords != UNKNOWN).all(1))
        step = min(CHUNK_PATCHES, max(1, MAX_DISTANCES // max(1, len(rows))))
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            distance = cdist(coords[chunk], coords[rows]) / patch_px
            # A patch is not its own neighbor.
            distance[np.arange(len(chunk)), np.arange(start, start + len(chunk))] = np.inf
            for column, radius in enumerate(RADII, 1):
                weights = np.exp(-distance / radius)
                features[chunk, column] = weights @ logits[rows] / (weights.sum(1) + SHRINKAGE)[:, None]
    return features.reshape(len(features), -1)
