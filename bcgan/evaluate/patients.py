"""Metrics with a patient as the unit: how much of the tissue is malignant, and whether any is.

With more than two classes these are means over the classes of how much of the tissue is of a class, and whether any is.
"""

from typing import Any

import numpy as np

from bcgan.evaluate import intervals, metrics

# The metrics, and the smallest and the largest value of each.
LIMITS = {"patient_fraction_mae": (0, 1), "patient_fraction_pearson": (-1, 1), "patient_roc_auc": (0, 1)}
NAMES = tuple(LIMITS)
MIN_PATIENTS_OF_KIND = 5  # with fewer patients with, or without, a class an area under the curve says nothing
MIN_VARIANCE_PRODUCT = 1e-16  # at or below it, patients differ by rounding errors only


def malignant_fractions(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each patient's true and estimated fraction of malignant patches and number of patches, sorted by name.

    Args:
        labels: integers 0 or 1, (n,).
        scores: float, calibrated probabilities of malignancy, (n,). Their mean estimates the fraction; the share of
            patches called malignant would be biased towards a half.
        patients: (n,). The patient of each patch.
    """
    codes = np.unique(patients, return_inverse=True)[1]
    count = np.bincount(codes)
    return np.bincount(codes, labels) / count, np.bincount(codes, scores) / count, count


def patient_metrics(
    labels: np.ndarray,
    calibrated: dict[int, np.ndarray],
    patients: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return {metric: {value, low, high, seeds}} for NAMES: means over the training seeds, with bootstrap intervals.

    patient_fraction_mae: mean absolute error of the estimated malignant fraction. patient_fraction_pearson: Pearson's
    correlation of true and estimated fractions. patient_roc_auc: how well the estimated fraction separates patients
    with a malignant patch from those without; `None` if there are fewer than MIN_PATIENTS_OF_KIND of either. With more
    than two classes, each metric is the mean over the classes that it is defined for.

    Args:
        labels: integers, (n,).
        calibrated: {training seed: calibrated probabilities, (n,) or (n, classes)}.
        patients: (n,). The patient of each patch.
        resamples, confidence, seed: Of the bootstrap: number of resamples, confidence in (0, 1), and random seed.
    """
    patient_names = np.unique(patients)
    weights = intervals.patient_weights(patient_names, resamples, seed)
    weights = np.concatenate([np.ones((1, len(patient_names))), weights])
    by_name: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for scores in calibrated.values():
        if scores.ndim == 1:
            by_class = [_class_metrics(labels, scores, patients, weights)]
        else:
            by_class = [
                _class_metrics(labels == label, scores[:, label], patients, weights) for label in range(scores.shape[1])
            ]
        for name in NAMES:
            by_name[name].append(_mean_of_defined(np.stack([values[name] for values in by_class])))
    scores = next(iter(calibrated.values()))
    num_classes = 2 if scores.ndim == 1 else scores.shape[1]
    limiting = {"patient_roc_auc": _patients_of_rarest_kind(labels, patients, num_classes)}
    return {
        name: intervals.percentile_interval(np.stack(values), limiting.get(name, patients), confidence, LIMITS[name])
        | {"seeds": len(calibrated)}
        for name, values in by_name.items()
    }


def _patients_of_rarest_kind(labels: np.ndarray, patients: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the patients of the smallest group that `patient_roc_auc` compares: with a patch of a class, or without.

    Of two classes the class is the second one.

    Args:
        labels, patients: (n,). Of each patch.
        num_classes: Of the classifier; patches of some may be missing here.
    """
    names, groups = np.unique(patients), []
    for label in range(1 if num_classes == 2 else 0, num_classes):
        with_class = np.unique(patients[labels == label])
        groups += [with_class, np.setdiff1d(names, with_class)]
    # A class that cannot be measured does not count: the metric is a mean over those that can.
    measured = [group for group in groups if len(group) >= MIN_PATIENTS_OF_KIND]
    return min(measured, key=len, default=names)


def _class_metrics(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return {metric: (resamples,)} of NAMES for one class.

    Args:
        labels: (n,). 1 or True for patches of the class.
        scores: float, (n,). Calibrated probabilities of the class.
        patients: (n,). The patient of each patch.
        weights: float, (resamples, patients). How often each patient counts, in the order of their sorted names.
    """
    true, estimated, _ = malignant_fractions(labels, scores, patients)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = metrics.areas_under_curves(true > 0, estimated, weights)["roc_auc"]
    if min((true > 0).sum(), (true == 0).sum()) < MIN_PATIENTS_OF_KIND:
        area = np.full_like(area, np.nan)
    return {
        "patient_fraction_mae": weights @ np.abs(true - estimated) / weights.sum(1),
        "patient_fraction_pearson": _correlation(true, estimated, weights),
        "patient_roc_auc": area,
    }


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the means over the first axis of the values that are finite; NaN where none is."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(0) / defined.sum(0)


def _correlation(left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of two arrays, (patients,), under each row of weights; NaN if one does not vary."""
    weights = weights / weights.sum(1, keepdims=True)
    covariance = weights @ (left * right) - (weights @ left) * (weights @ right)
    variances = [weights @ values**2 - (weights @ values) ** 2 for values in (left, right)]
    product = variances[0] * variances[1]
    return covariance / np.sqrt(np.where(product > MIN_VARIANCE_PRODUCT, product, np.nan))
