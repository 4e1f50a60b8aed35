"""Figures of merit of probabilities, each also under many weightings at once, which is what a bootstrap asks for.

Every function takes weights of shape (resamples, n) and gives (resamples,): with one row of ones it is the plain
metric, which the tests compare with scikit-learn.
"""

import numpy as np

AT_THRESHOLD = ("sensitivity", "specificity", "balanced_accuracy", "f1")
SENSITIVITY = 0.95  # asked for by the rule sensitivity_95
BINS = 10  # of the expected calibration error, equally wide
NAMES = (
    "roc_auc", "pr_auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "f1", "brier", "ece", "loss",
)  # fmt: skip


def measure(
    labels: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """All figures of NAMES; NaN where a weighting leaves no patch that the figure is about.

    Args:
        labels: integers 0 or 1, (n,).
        scores: float, probabilities of malignancy, (n,).
        threshold: float, or float, (n,). At or above it a patch is called malignant.
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
            **areas(positive, scores, weights),
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
    """{name of the rule: threshold}. Choose them on validation patients.

    youden: the largest sensitivity + specificity - 1. sensitivity_95: the largest threshold with a sensitivity of at
    least 0.95. f1: the largest F1.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_rate, true_rate, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, pr_thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return {
        "youden": float(min(thresholds[np.argmax(true_rate - false_rate)], 1.0)),
        "sensitivity_95": float(thresholds[np.argmax(true_rate >= SENSITIVITY)]),
        "f1": float(pr_thresholds[np.argmax(f1[:-1])]),
    }


def areas(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """ROC AUC, and PR AUC as average precision; tied scores count as one threshold."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(weights[:, order] * positive[order], 1)[:, ends]
    false = np.cumsum(weights[:, order] * ~positive[order], 1)[:, ends]
    hit_steps, false_steps = np.diff(hits, axis=1, prepend=0), np.diff(false, axis=1, prepend=0)
    roc = (false_steps * (hits - hit_steps / 2)).sum(1) / (hits[:, -1] * false[:, -1])
    precision = hits / np.maximum(hits + false, np.finfo(float).tiny)
    return {"roc_auc": roc, "pr_auc": (hit_steps * precision).sum(1) / hits[:, -1]}


def _calibration_error(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over bins of |observed share - mean probability|, weighted by the bins' patches (Naeini et al. 2015)."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = (positive - scores)[:, None] * (bins[:, None] == np.arange(BINS))
    return np.abs(weights @ gaps).sum(1) / weights.sum(1)
