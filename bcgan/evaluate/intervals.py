"""Intervals by patient bootstrap: whole patients are drawn, since a patient's patches resemble each other."""

from typing import Any

import numpy as np

from bcgan.evaluate import metrics


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
        {metric: {value, low, high, seeds}}; None in place of what cannot be computed, as with one class alone.
    """
    ones = np.ones((1, len(labels)), np.float32)
    drawn = patient_weights(patients, resamples, seed)
    values = [metrics.measure(labels, scores[key], thresholds[key], ones) for key in scores]
    spread = [metrics.measure(labels, scores[key], thresholds[key], drawn) for key in scores]
    found = {}
    for name in metrics.NAMES:
        value = np.mean([one[name][0] for one in values])
        samples = np.mean([one[name] for one in spread], axis=0)
        tail = (1 - confidence) / 2 * 100
        finite = np.isfinite(samples)
        low, high = np.percentile(samples[finite], (tail, 100 - tail)) if finite.any() else (np.nan, np.nan)
        numbers = {"value": value, "low": low, "high": high}
        found[name] = {key: float(n) if np.isfinite(n) else None for key, n in numbers.items()} | {"seeds": len(scores)}
    return found
