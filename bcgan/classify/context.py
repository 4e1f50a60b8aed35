"""Spatial context: refine a patch's prediction by those of the patches around it, if their coordinates are known.

Carcinoma grows in regions. A patch's own log odds are joined by its neighbours', averaged with weights that fall with
the distance, at three distances; a logistic regression on the validation patients says how much each counts. It works
on complete slides and on scattered samples of one alike: the averages shrink to nothing where neighbours are few.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from bcgan.classify.calibration import log_odds, probability
from bcgan.data.records import UNKNOWN

REACH = (1.5, 4.0, 12.0)  # distances, in patches, at which a neighbour's weight has fallen to 1/e
SHRINKAGE = 1.0  # weight of the nothing that every average holds
BLOCK = 2048  # patches whose distances are held at a time, at most
HELD = 2**24  # distances


class Context(NamedTuple):
    """coefficients: (1 + len(REACH),), of the patch's own log odds and of each average; intercept: float."""

    coefficients: list[float]
    intercept: float


def known(places: np.ndarray) -> bool:
    """Whether patches have places at all: a data set without them gives UNKNOWN."""
    return bool((places != UNKNOWN).any())


def fit(probabilities: np.ndarray, places: np.ndarray, slides: np.ndarray, labels: np.ndarray, side: int) -> Context:
    """How much the neighbours count, from the validation patients.

    Args:
        probabilities: float in [0, 1], (n,). Of malignancy, each patch by itself.
        places: integers, (n, 2). x and y of the upper left corners, pixels at the patches' own scale.
        slides: (n,). The slide, or the patient, of each patch: neighbours are of the same one.
        labels: 0 or 1, (n,).
        side: int. Side of a patch, pixels at the same scale.
    """
    from sklearn.linear_model import LogisticRegression  # a second that reading what is fitted must not cost

    features = neighbourhood(probabilities, places, slides, side)
    model = LogisticRegression().fit(features, labels)
    return Context(model.coef_[0].tolist(), float(model.intercept_[0]))


def refine(
    context: Context, probabilities: np.ndarray, places: np.ndarray, slides: np.ndarray, side: int
) -> np.ndarray:
    """Return probabilities of malignancy refined by the neighbours, float, (n,). Arguments as `fit`'s."""
    features = neighbourhood(probabilities, places, slides, side)
    return probability(features @ context.coefficients + context.intercept)


def has_neighbours(places: np.ndarray, side: int) -> np.ndarray:
    """Whether another patch of the same slide lies within the farthest REACH; bool, (n,). Arguments as `fit`'s."""
    if len(places) < 2:
        return np.zeros(len(places), bool)
    distance = cKDTree(places).query(places, 2)[0][:, 1]
    return distance <= REACH[-1] * side


def neighbourhood(probabilities: np.ndarray, places: np.ndarray, slides: np.ndarray, side: int) -> np.ndarray:
    """Own log odds, and the neighbours' average at each REACH; float, (n, 1 + len(REACH))."""
    odds = log_odds(probabilities)
    features = np.zeros((len(odds), 1 + len(REACH)))
    features[:, 0] = odds
    for slide in np.unique(slides):
        rows = np.flatnonzero((slides == slide) & (places != UNKNOWN).all(1))
        step = min(BLOCK, max(1, HELD // max(1, len(rows))))
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            distance = cdist(places[chunk], places[rows]) / side
            # A patch is no neighbour of its own.
            distance[np.arange(len(chunk)), np.arange(start, start + len(chunk))] = np.inf
            for column, reach in enumerate(REACH, 1):
                weights = np.exp(-distance / reach)
                features[chunk, column] = weights @ odds[rows] / (weights.sum(1) + SHRINKAGE)
    return features
