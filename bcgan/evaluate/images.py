"""Metrics with an image as the unit, where images were cut into patches, and the recognition rates of BreaKHis.

An image's probability is the mean of the calibrated probabilities of its patches. The image recognition rate is the
share of images that are classified correctly. The patient recognition rate is the mean over patients of the share of a
patient's images that are (Spanhol et al. 2016).
"""

from typing import Any

import numpy as np
import pandas as pd

from bcgan.evaluate import intervals, metrics

NAMES = ("image_roc_auc", "image_balanced_accuracy", "image_recognition_rate", "patient_recognition_rate")


def image_metrics(
    table: pd.DataFrame,
    calibrated: dict[int, np.ndarray],
    role: str,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return the metrics of NAMES of a role's images, each {value, low, high, seeds}: means over the seeds.

    With two classes, the threshold is that of the largest Youden index on validation images.

    Args:
        table: Columns image, patient, label, role; one row for each patch.
        calibrated: {seed: calibrated probabilities, (n,) or (n, classes)}.
    """
    first, probabilities = average_by_image(table["image"].to_numpy(), calibrated)
    images = table.iloc[first]
    labels, roles = images["label"].to_numpy(), images["role"].to_numpy()
    validation, rows = roles == "validation", roles == role
    thresholds = {
        key: metrics.select_threshold(labels[validation], values[validation]) for key, values in probabilities.items()
    }
    predictions = intervals.SeedPredictions(probabilities, thresholds).select(rows)
    return measure(labels[rows], predictions, images["patient"].to_numpy()[rows], (resamples, confidence, seed))


def average_by_image(images: np.ndarray, values: dict[int, np.ndarray]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Average arrays with a row for each patch, (n,) or (n, classes), over the patches of each image.

    Args:
        images: Text, (n,). The image of each patch.

    Returns:
        The position of each image's first patch, and the means by the keys of `values`, (images,) or (images, classes).
    """
    codes, _ = pd.factorize(images)
    first = np.unique(codes, return_index=True)[1]
    counts = np.bincount(codes)
    means = {}
    for key, rows in values.items():
        columns = [np.bincount(codes, column) / counts for column in rows.reshape(len(rows), -1).T]
        means[key] = columns[0] if rows.ndim == 1 else np.stack(columns, 1)
    return first, means


def measure(
    labels: np.ndarray, predictions: intervals.SeedPredictions, patients: np.ndarray, bootstrap: tuple[int, float, int]
) -> dict[str, dict[str, Any]]:
    """Return {metric: {value, low, high, seeds}} for NAMES. All arrays have an element for each image, not patch.

    `bootstrap` are resamples, confidence and seed, as `intervals.metrics_with_intervals` takes them.
    """
    measured = intervals.metrics_with_intervals(labels, predictions, patients, *bootstrap)
    results = {f"image_{name}": measured[name] for name in ("roc_auc", "balanced_accuracy")}
    results["image_recognition_rate"] = measured["accuracy"]
    results["patient_recognition_rate"] = _patient_recognition_rate(labels, predictions, patients, *bootstrap)
    return results


def _patient_recognition_rate(
    labels: np.ndarray,
    predictions: intervals.SeedPredictions,
    patients: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Return {value, low, high, seeds}: the mean of patients' shares of images that are classified correctly.

    Arguments are as in `intervals.metrics_with_intervals`, with an element for each image.
    """
    names = np.unique(patients)
    weights = intervals.patient_weights(names, resamples, seed)
    weights = np.concatenate([np.ones((1, len(names)), weights.dtype), weights])
    by_seed = [
        weights @ _patient_rates(is_right(labels, values, predictions.thresholds[key]), patients) / weights.sum(1)
        for key, values in predictions.probabilities.items()
    ]
    return intervals.percentile_interval(np.stack(by_seed), names, confidence, (0, 1)) | {"seeds": len(by_seed)}


def is_right(labels: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray | None) -> np.ndarray:
    """Return whether images are classified correctly, bool, (n,).

    Args:
        probabilities: Of the second of two classes, (n,), or of each class, (n, classes).
        threshold: From which on the second of two classes is called, one or (n,).
    """
    called = probabilities.argmax(1) if probabilities.ndim == 2 else probabilities >= threshold
    return called == labels


def _patient_rates(is_right_image: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return each patient's share of images that are classified correctly, (patients,), sorted by name."""
    codes = np.unique(patients, return_inverse=True)[1]
    return np.bincount(codes, is_right_image) / np.bincount(codes)
