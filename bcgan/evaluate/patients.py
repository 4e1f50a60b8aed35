"""From patches to the patient: how much of the tissue is malignant, and whether any is."""

from typing import Any

import numpy as np

from bcgan.evaluate import intervals, metrics

NAMES = ("patient_fraction_mae", "patient_fraction_pearson", "patient_roc_auc")
ROUNDING = 1e-16  # below it, patients do not differ


def shares(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row a patient, in the order of the names: true share of malignant patches, estimated share, patches.

    Args:
        labels: integers 0 or 1, (n,).
        scores: float, calibrated probabilities of malignancy, (n,): their mean estimates a share, where counting calls
            would be pulled towards a half.
    """
    codes = np.unique(patients, return_inverse=True)[1]
    count = np.bincount(codes)
    return np.bincount(codes, labels) / count, np.bincount(codes, scores) / count, count


def measure(
    labels: np.ndarray,
    calibrated: dict[int, np.ndarray],
    patients: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Figures with a patient as the unit, each {value, low, high, seeds}: the mean over the seeds.

    patient_fraction_mae: mean distance between the estimated and the true share. patient_fraction_pearson: Pearson's.
    patient_roc_auc: patients with a malignant patch against those without, by the estimated share; None where all are
    of one kind.

    Args:
        calibrated: {seed: calibrated probabilities, (n,)}.
    """
    names = np.unique(patients)
    weights = intervals.patient_weights(names, resamples, seed)
    weights = np.concatenate([np.ones((1, len(names))), weights])
    by_name: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for scores in calibrated.values():
        true, estimated, _ = shares(labels, scores, patients)
        by_name["patient_fraction_mae"].append(weights @ np.abs(true - estimated) / weights.sum(1))
        by_name["patient_fraction_pearson"].append(_correlation(true, estimated, weights))
        with np.errstate(invalid="ignore", divide="ignore"):
            by_name["patient_roc_auc"].append(metrics.areas(true > 0, estimated, weights)["roc_auc"])
    counts = intervals.draw_seeds(len(calibrated), resamples, np.random.default_rng((seed, 1)))
    means = {name: intervals.over_seeds(np.stack(values), counts) for name, values in by_name.items()}
    return {
        name: intervals.interval(values, patients, confidence) | {"seeds": len(calibrated)}
        for name, values in means.items()
    }


def _correlation(left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weights = weights / weights.sum(1, keepdims=True)
    covariance = weights @ (left * right) - (weights @ left) * (weights @ right)
    variances = [weights @ side**2 - (weights @ side) ** 2 for side in (left, right)]
    product = variances[0] * variances[1]
    return covariance / np.sqrt(np.where(product > ROUNDING, product, np.nan))
