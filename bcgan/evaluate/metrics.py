"""Metrics of probabilities, computed for many bootstrap resamples at once.

With more than two classes a patch is called the most probable one. Metrics are then means over the classes, each
against the rest; the balanced accuracy is the mean sensitivity, and accuracy, the Brier score and the loss are those of
all classes together. For two classes these definitions agree with the usual ones.

Functions that take weights, (resamples, n), return values of shape (resamples,). A row of ones gives the plain metric,
which the tests compare with scikit-learn's.
"""

import numpy as np

THRESHOLD_METRICS = ("accuracy", "sensitivity", "specificity", "balanced_accuracy", "f1")
MIN_SENSITIVITY = 0.95  # of the rule sensitivity_95
CALIBRATION_BINS = 10  # of the expected calibration error, equally wide
NAMES = (
    "roc_auc", "pr_auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "f1", "brier", "ece", "loss",
)  # fmt: skip


def compute_metrics(
    labels: np.ndarray,
    scores: np.ndarray,
    threshold: float | np.ndarray,
    weights: np.ndarray,
    folds: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return all metrics of NAMES; NaN if a resample has no patch that the metric is defined on.

    Args:
        labels: integers, (n,).
        scores: float, probabilities of the second of two classes, (n,), or of each class, (n, classes).
        threshold: A number, or one for each patch, (n,). At or above it a patch is called the second class. Not used
            with more than two classes.
        weights: float, (resamples, n).
        folds: As `areas_under_curves` takes them. Defaults to `None`.
    """
    if scores.ndim == 2:
        return _multiclass_metrics(labels, scores, weights, folds)
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
            **areas_under_curves(positive, scores, weights, folds),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "accuracy": (true_positive + true_negative) / total,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "f1": 2 * true_positive / (true_positive + false_positive + weights @ positive),
            "brier": weights @ (scores - positive) ** 2 / total,
            "ece": _calibration_error(positive, scores, weights),
            "loss": weights @ losses / total,
        }


def _multiclass_metrics(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, folds: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return {metric: (resamples,)} for more than two classes. Arguments as in `compute_metrics`.

    Most are means over the classes, each against the rest; see the module. NaN in resamples that lack a class.
    """
    num_classes = scores.shape[1]
    by_class = [
        compute_metrics((labels == label).astype(int), *against_rest(scores, label), weights, folds)
        for label in range(num_classes)
    ]
    is_absent = (weights @ np.eye(num_classes)[labels] == 0).any(1)  # then no mean over the classes is defined
    means = {name: np.where(is_absent, np.nan, np.mean([values[name] for values in by_class], 0)) for name in NAMES}
    true_probabilities = scores[np.arange(len(labels)), labels]
    squared_errors = ((scores - np.eye(num_classes)[labels]) ** 2).sum(1) / 2
    total = weights.sum(1)
    return means | {
        "balanced_accuracy": means["sensitivity"],
        "accuracy": weights @ (scores.argmax(1) == labels) / total,
        "brier": weights @ squared_errors / total,
        "loss": weights @ -np.log(np.clip(true_probabilities, 1e-7, 1)) / total,
    }


def call(probabilities: np.ndarray, threshold: float | None) -> np.ndarray:
    """Return the labels that patches are called, (n,).

    Args:
        probabilities: float, of the second of two classes, (n,), or of each class, (n, classes).
        threshold: From which on a patch is called the second of two classes; the most probable of more is called.
    """
    if probabilities.ndim == 2:
        return probabilities.argmax(1)
    return (probabilities >= threshold).astype(int)


def second_or_all(probabilities: np.ndarray) -> np.ndarray:
    """Return scikit-learn's probabilities, (n, classes), as those of the second of two classes, (n,), or of each."""
    return probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities


def macro_roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the ROC AUC; with more than two classes, the mean over the classes, each against the rest.

    Args:
        labels: integers, (n,).
        scores: float, larger for a more likely class: of the second of two, (n,), or of each, (n, classes).
    """
    unit_weights, scores = np.ones((1, len(labels))), np.asarray(scores)
    by_label = {1: scores} if scores.ndim == 1 else dict(enumerate(scores.T))
    areas = [
        areas_under_curves(labels == label, of_class, unit_weights)["roc_auc"] for label, of_class in by_label.items()
    ]
    return float(np.mean(areas))


def against_rest(scores: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each patch's probability of a class, and the threshold at which it is called that class; (n,) each.

    The threshold is infinite if another class is more probable.

    Args:
        scores: float, probabilities of each class, (n, classes).
    """
    called = scores.argmax(1) == label
    return scores[:, label], np.where(called, scores[:, label], np.inf)


def select_threshold(labels: np.ndarray, scores: np.ndarray, rule: str = "youden") -> float | None:
    """Return the threshold of a rule of `operating_points`; `None` with more than two classes, which need none."""
    return operating_points(labels, scores)[rule] if scores.ndim == 1 else None


def operating_points(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return {rule: threshold} for two classes. Call it with validation patients.

    youden: the largest sensitivity + specificity - 1. sensitivity_95: the largest threshold with a sensitivity of at
    least MIN_SENSITIVITY. f1: the largest F1. accuracy: the largest accuracy.

    Args:
        labels: 0 or 1, (n,).
        scores: float, probabilities of the second class, (n,).
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_rate, true_rate, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, pr_thresholds = precision_recall_curve(labels, scores)
    num_positive, num_negative = np.sum(labels == 1), np.sum(labels == 0)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    # The first threshold of `roc_curve` is infinite. The last point of `precision_recall_curve` has no threshold.
    return {
        "youden": float(min(thresholds[np.argmax(true_rate - false_rate)], 1.0)),
        "sensitivity_95": float(thresholds[np.argmax(true_rate >= MIN_SENSITIVITY)]),
        "f1": float(pr_thresholds[np.argmax(f1[:-1])]),
        "accuracy": float(min(thresholds[np.argmax(true_rate * num_positive - false_rate * num_negative)], 1.0)),
    }


def areas_under_curves(
    positive: np.ndarray, scores: np.ndarray, weights: np.ndarray, folds: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the ROC AUC and the PR AUC (average precision) of every resample.

    Patches with equal scores form one threshold. Scores of different folds are from different networks, which are not
    on one scale: only patches of the same fold are compared (Forman and Scholz 2010). The ROC AUC is then the share of
    all pairs of a positive and a negative patch of one fold, and the PR AUC the mean over positive patches.

    Args:
        positive: bool, (n,).
        scores: float, (n,).
        weights: float, (resamples, n).
        folds: (n,). The fold of cross-validation that each patch is tested in. Defaults to `None`, one for all.

    Returns:
        Two arrays, (resamples,); NaN where a resample has no positive patch, and of the ROC AUC no pair.
    """
    if folds is None:
        sums = [_sums_under_curves(positive, scores, weights)]
    else:
        by_fold = [folds == fold for fold in np.unique(folds)]
        sums = [_sums_under_curves(positive[rows], scores[rows], weights[:, rows]) for rows in by_fold]
    concordant, pairs, precision, positives = (np.sum(values, 0) for values in zip(*sums, strict=True))
    return {"roc_auc": concordant / pairs, "pr_auc": precision / positives}


def _sums_under_curves(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what `areas_under_curves` divides: pairs in the right order, pairs, sum of precisions, positive patches.

    Each has the shape (resamples,). Arguments as in `areas_under_curves`, of one fold.
    """
    order = np.argsort(-scores, kind="stable")
    # The last patch of each group of equal scores: only there is a threshold.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true_positives = np.cumsum(weights[:, order] * positive[order], 1)[:, ends]
    false_positives = np.cumsum(weights[:, order] * ~positive[order], 1)[:, ends]
    true_steps = np.diff(true_positives, axis=1, prepend=0)
    false_steps = np.diff(false_positives, axis=1, prepend=0)
    # Areas of trapezoids under the ROC curve, in patches squared.
    trapezoids = false_steps * (true_positives - true_steps / 2)
    precision = true_positives / np.maximum(true_positives + false_positives, np.finfo(float).tiny)
    positives = true_positives[:, -1]
    return trapezoids.sum(1), positives * false_positives[:, -1], (true_steps * precision).sum(1), positives


def _calibration_error(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of each resample, (resamples,) (Naeini et al. 2015).

    It is the mean over CALIBRATION_BINS bins of |observed share - mean probability|, weighted by the patches in a bin.
    """
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    # (n, bins): the difference of each patch in the column of its bin; sums over a bin need no counts.
    gaps = (positive - scores)[:, None] * (bins[:, None] == np.arange(CALIBRATION_BINS))
    return np.abs(weights @ gaps).sum(1) / weights.sum(1)
