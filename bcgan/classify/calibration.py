"""Calibrate probabilities by temperature scaling (Guo et al. 2017) with a shift (Platt 1999).

Training weights both classes equally, so the probabilities of malignancy are too high if malignant patches are rare. A
temperature alone cannot correct that.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

EPSILON = 1e-6  # probabilities are clipped to [EPSILON, 1 - EPSILON]


class Calibration(NamedTuple):
    """Parameters of the calibration: log odds are divided by `temperature`, then `shift` is added."""

    temperature: float
    shift: float


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return the log odds log(p / (1 - p)), float64."""
    return logit(np.clip(np.asarray(probabilities, np.float64), EPSILON, 1 - EPSILON))


def sigmoid(odds: np.ndarray) -> np.ndarray:
    """Return the probabilities of log odds; the inverse of `log_odds`."""
    return expit(odds)


def fit(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit the calibration to the predictions for validation patches; (n,) each.

    Returns the identity (1, 0) if the fitted slope is negative: calibration must not reverse the order of predictions.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import, which prediction does not need

    model = LogisticRegression(C=np.inf, max_iter=1000).fit(log_odds(probabilities)[:, None], labels)
    slope = float(model.coef_[0, 0])
    return Calibration(1 / slope, float(model.intercept_[0])) if slope > 0 else Calibration(1.0, 0.0)


def apply(calibration: Calibration, probabilities: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities; their order, and so the ROC AUC, does not change."""
    return sigmoid(log_odds(probabilities) / calibration.temperature + calibration.shift)
