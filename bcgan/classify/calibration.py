"""Probabilities that mean what they say: temperature scaling (Guo et al. 2017), with a shift (Platt 1999).

Training weighs the classes alike, so its probabilities are too high where malignant patches are few; a temperature
alone cannot mend that.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

LEAST = 1e-6  # probabilities nearer to 0 and 1 are held here


class Calibration(NamedTuple):
    """Log odds are divided by `temperature`, then `shift` is added."""

    temperature: float
    shift: float


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), float64."""
    return logit(np.clip(np.asarray(probabilities, np.float64), LEAST, 1 - LEAST))


def probability(odds: np.ndarray) -> np.ndarray:
    """The inverse of `log_odds`."""
    return expit(odds)


def fit(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """From validation patients' probabilities; as they are (1, 0) where more malignancy means a smaller probability."""
    from sklearn.linear_model import LogisticRegression  # a second that reading what is fitted must not cost

    model = LogisticRegression(C=np.inf, max_iter=1000).fit(log_odds(probabilities)[:, None], labels)
    slope = float(model.coef_[0, 0])
    return Calibration(1 / slope, float(model.intercept_[0])) if slope > 0 else Calibration(1.0, 0.0)


def apply(calibration: Calibration, probabilities: np.ndarray) -> np.ndarray:
    """Calibrated probabilities: in the same order, so that ROC AUC stays."""
    return probability(log_odds(probabilities) / calibration.temperature + calibration.shift)
