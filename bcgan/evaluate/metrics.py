"""Metrics of probabilities, computed for many bootstrap resamples at once.

Every function takes weights of shape (resamples, n) and returns values of shape (resamples,). A row of ones gives the
plain metric, which the tests compare with scikit-learn's.
"""

import numpy as np

THRESHOLD_METRICS = ("sensitivity", "specificity", "balanced_accuracy", "f1")
MIN_SENSITIVITY = 0.95  # of the rule sensitivity_95
CALIBRATION_BINS = 10  # of the expected calibration error, equally wide
NAMES = (
    "roc_auc", "pr_auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "f1", "brier", "ece", "loss",
)  # fmt: skip


def compute_metrics(
    labels: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return all metrics of NAMES; NaN if a resample has no patch that the metric is defined on.

    Args:
        labels: integers 0 or 1, (n,).
        scores: float, probabilities of malignancy, (n,).
        threshold: A number, or one for each patch, (n,). At or above it a patch is called malignant.
        weights: float, (resamples, n).
    """
    positive = labels == 1
    called = scores >= threshold
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    losses = -np.where(positive, np.log(clipped), np.log(1 - clipped))
    total = weights.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        true_positive = weights @ (positive & called)
        true_negative = weights @ (~positive & ~called)
        false_positive = weights @ (~positive & called)
        sensitivity = true_positive / (weights @ positive)
        specificity = true_negative / (weights @ ~positive)
        return {
            **areas_under_curves(positive, scores, weights),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "accuracy": (true_positive + true_negative) / total,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "f1": 2 * true_positive / (true_positive + false_positive + weights @ positive),
            "brier": weights @ (scores - positive) ** 2 / total,
            "ece": _calibration_error(positive, scores, weights),
            "loss": weights @ losses / total,
        }


def operating_points(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return the threshold that each rule selects. Call it with validation patients.

    youden: the largest sensitivity + specificity - 1. sensitivity_95: the largest threshold with a sensitivity of at
    least 0.95. f1: the largest F1.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_rate, true_rate, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, pr_thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return {
        "youden": float(min(thresholds[np.argmax(true_rate - false_rate)], 1.0)),
        "sensitivity_95": float(thresholds[np.argmax(true_rate >= MIN_SENSITIVITY)]),
        "f1": float(pr_thresholds[np.argmax(f1[:-1])]),
    }


def areas_under_curves(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return `roc_auc`, and `pr_auc` as average precision; tied scores count as one threshold."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true_positives = np.cumsum(weights[:, order] * positive[order], 1)[:, ends]
    false_positives = np.cumsum(weights[:, order] * ~positive[order], 1)[:, ends]
    true_steps = np.diff(true_positives, axis=1, prepend=0)
    false_steps = np.diff(false_positives, axis=1, prepend=0)
    trapezoids = false_steps * (true_positives - true_steps / 2)
    roc_auc = trapezoids.sum(1) / (true_positives[:, -1] * false_positives[:, -1])
    precision = true_positives / np.maximum(true_positives + false_positives, np.finfo(float).tiny)
    return {"roc_auc": roc_auc, "pr_auc": (true_steps * precision).sum(1) / true_positives[:, -1]}


def _calibration_error(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over bins of |observed share - mean probability|, weighted by patches (Naeini et al. 2015)."""
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = (positive - scores)[:, None] * (bins[:, None] == np.arange(CALIBRATION_BINS))
    return np.abs(weights @ gaps).sum(1) / weights.sum(1)
