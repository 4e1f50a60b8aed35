"""Intervals by patient bootstrap: whole patients are drawn, since a patient's patches resemble each other."""

from typing import Any

import numpy as np

from bcgan.evaluate import metrics

LEAST_PATIENTS = 8  # fewer cannot be resampled into an interval that means something
LEAST_DEFINED = 0.9  # share of the resamples in which a figure must be defined
BLOCK = 50  # resamples measured at a time, which bounds the memory


def patient_weights(patients: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each patch counts in each resample of the patients, float32, (resamples, n)."""
    codes = np.unique(patients, return_inverse=True)[1]
    count = codes.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, codes].astype(np.float32)


def with_intervals(
    labels: np.ndarray,
    scores: dict[int, np.ndarray],
    thresholds: dict[int, float],
    patients: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Every figure as {value, low, high, seeds}: the mean over the seeds, and percentiles of that mean.

    Args:
        scores: {seed: probabilities (n,)}, one entry a training.
        thresholds: {seed: threshold}, chosen on validation patients.
        patients: (n,). The patient of each patch.

    Returns:
        {metric: {value, low, high, seeds}}; None in place of what cannot be computed, as with one class alone, and
        of intervals over fewer than LEAST_PATIENTS patients.
    """

    def mean_over_seeds(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = [metrics.measure(labels, scores[key], thresholds[key], weights) for key in scores]
        return {name: np.mean([one[name] for one in found], axis=0) for name in metrics.NAMES}

    values = mean_over_seeds(np.ones((1, len(labels)), np.float32))
    drawn = patient_weights(patients, resamples, seed)
    blocks = [mean_over_seeds(drawn[start : start + BLOCK]) for start in range(0, resamples, BLOCK)]
    found = {}
    for name in metrics.NAMES:
        samples = np.concatenate([block[name] for block in blocks])
        found[name] = interval(values[name][0], samples, patients, confidence) | {"seeds": len(scores)}
    return found


def interval(value: float, samples: np.ndarray, patients: np.ndarray, confidence: float) -> dict[str, float | None]:
    """{value, low, high} of a figure and its resamples; None in place of what is not defined, and of the ends where
    fewer than LEAST_PATIENTS patients were resampled or LEAST_DEFINED of the resamples have a value."""
    finite, low, high = np.isfinite(samples), np.nan, np.nan
    if len(np.unique(patients)) >= LEAST_PATIENTS and finite.mean() > LEAST_DEFINED:
        tail = (1 - confidence) / 2 * 100
        low, high = np.percentile(samples[finite], (tail, 100 - tail))
    numbers = {"value": value, "low": low, "high": high}
    return {key: float(number) if np.isfinite(number) else None for key, number in numbers.items()}
