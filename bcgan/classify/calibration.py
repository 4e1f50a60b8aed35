"""Calibrate probabilities: temperature scaling with a shift for two classes, vector scaling for more.

Training weights all classes equally, so the probabilities of a class are too high if its patches are rare. A
temperature alone (Guo et al. 2017) cannot correct that: a shift is added (Platt 1999). With more than two classes each
has a temperature and a shift of its own, which is vector scaling (Guo et al. 2017). Both are fitted to Platt's smoothed
targets, not to 0 and 1: a few validation patches that are told apart without error would otherwise make every
probability 0 or 1.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_softmax, logit, softmax

EPSILON = 1e-6  # probabilities are clipped to [EPSILON, 1 - EPSILON]
MAX_LOG_SCALE = 3.0  # of vector scaling: temperatures lie between exp(-MAX_LOG_SCALE) and exp(MAX_LOG_SCALE)


class Calibration(NamedTuple):
    """Parameters of the calibration: logits are divided by `temperature`, then `shift` is added; lists by class."""

    temperature: float | list[float]
    shift: float | list[float]


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Return logits, float64: the log odds of (n,), or the logarithms of (n, classes) less their mean over classes."""
    clipped = np.clip(np.asarray(probabilities, np.float64), EPSILON, 1 - EPSILON)
    if clipped.ndim == 1:
        return logit(clipped)
    logs = np.log(clipped)
    return logs - logs.mean(1, keepdims=True)


def to_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits, (n,) or (n, classes); the inverse of `to_logits`."""
    return softmax(logits, 1) if np.ndim(logits) == 2 else expit(logits)


def from_outputs(outputs: np.ndarray) -> np.ndarray:
    """Return the probabilities of a network's logits: (n,) for outputs (n, 1), else (n, classes)."""
    return to_probabilities(outputs[:, 0] if outputs.shape[1] == 1 else outputs)


def fit(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit the calibration to the predictions for validation patches.

    Returns the identity for two classes if the fitted slope is negative: calibration must not reverse the order of
    predictions.

    Args:
        probabilities: float, of the second of two classes, (n,), or of each class, (n, classes).
        labels: integers, (n,).
    """
    if np.ndim(probabilities) == 2:
        return _fit_vector_scaling(to_logits(probabilities), np.asarray(labels))
    from sklearn.linear_model import LogisticRegression  # takes a second to import, which prediction does not need

    # scikit-learn takes no soft targets: each patch counts in both classes, weighted by its targets.
    targets = _smoothed_targets(np.asarray(labels), 2)
    inputs, classes = np.tile(to_logits(probabilities), 2)[:, None], np.repeat([0, 1], len(targets))
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(inputs, classes, targets.T.ravel())
    slope = float(model.coef_[0, 0])
    return Calibration(1 / slope, float(model.intercept_[0])) if slope > 0 else Calibration(1.0, 0.0)


def apply(calibration: Calibration, probabilities: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities; of two classes, their order, and so the ROC AUC, does not change."""
    temperature, shift = np.asarray(calibration.temperature), np.asarray(calibration.shift)
    return to_probabilities(to_logits(probabilities) / temperature + shift)


def _smoothed_targets(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the targets of Platt (1999), float64, (n, num_classes): (k + 1) / (k + 2) for a class of k patches.

    The rest is spread over the other classes.
    """
    counts = np.bincount(labels, minlength=num_classes)[labels]
    rest = 1 / ((counts + 2) * (num_classes - 1))
    return np.where(np.eye(num_classes)[labels] == 1, ((counts + 1) / (counts + 2))[:, None], rest[:, None])


def _fit_vector_scaling(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit a positive scale and a shift of each class's logit, by the least mean cross-entropy.

    Args:
        logits: float64, (n, classes).
        labels: integers, (n,).
    """
    from scipy.optimize import minimize  # likewise

    num_classes = logits.shape[1]
    targets = _smoothed_targets(labels, num_classes)

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient; the parameters are the logarithms of the scales, then the shifts."""
        scale, shift = np.exp(parameters[:num_classes]), parameters[num_classes:]
        scaled = logits * scale + shift
        error = (softmax(scaled, 1) - targets) / len(labels)
        gradient = np.concatenate([(error * logits).sum(0) * scale, error.sum(0)])
        return float(-(targets * log_softmax(scaled, 1)).sum(1).mean()), gradient

    bounds = [(-MAX_LOG_SCALE, MAX_LOG_SCALE)] * num_classes + [(None, None)] * num_classes
    start = np.zeros(2 * num_classes)
    options = {"ftol": 1e-12, "gtol": 1e-8}
    log_scale, shift = np.split(minimize(loss_and_gradient, start, jac=True, bounds=bounds, options=options).x, 2)
    # A temperature is the inverse of a scale. The same shift of all classes changes no probability: their mean is 0.
    return Calibration(np.exp(-log_scale).tolist(), (shift - shift.mean()).tolist())
