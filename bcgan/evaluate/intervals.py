"""Intervals by patient bootstrap: whole patients are drawn, since a patient's patches resemble each other."""

from typing import Any, NamedTuple

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


class Scored(NamedTuple):
    """probabilities: {seed: (n,)}, one entry a training. thresholds: {seed: threshold}, chosen on validation."""

    probabilities: dict[int, np.ndarray]
    thresholds: dict[int, float]


def resampled(labels: np.ndarray, scored: Scored, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every figure of the patches as they are, then under each weighting; the mean over the seeds, (1 + resamples,)."""
    weights = np.concatenate([np.ones((1, len(labels)), np.float32), weights])
    blocks = [weights[start : start + BLOCK] for start in range(0, len(weights), BLOCK)]
    found = [
        [metrics.measure(labels, scores, scored.thresholds[seed], block) for block in blocks]
        for seed, scores in scored.probabilities.items()
    ]
    return {
        name: np.mean([np.concatenate([block[name] for block in one]) for one in found], axis=0)
        for name in metrics.NAMES
    }


def with_intervals(
    labels: np.ndarray, scored: Scored, patients: np.ndarray, resamples: int, confidence: float, seed: int
) -> dict[str, dict[str, Any]]:
    """Every figure as {value, low, high, seeds}: the mean over the seeds, and percentiles of that mean.

    Args:
        labels: integers 0 or 1, (n,).
        patients: (n,). The patient of each patch.

    Returns:
        {metric: {value, low, high, seeds}}; None in place of what cannot be computed, as with one class alone, and
        of intervals over fewer than LEAST_PATIENTS patients.
    """
    found = resampled(labels, scored, patient_weights(patients, resamples, seed))
    return {
        name: interval(values[0], values[1:], patients, confidence) | {"seeds": len(scored.probabilities)}
        for name, values in found.items()
    }


def difference(one: np.ndarray, other: np.ndarray, patients: np.ndarray, confidence: float) -> dict[str, float | None]:
    """{value, low, high, p} of one - other, two figures of `resampled` under the same weightings: a paired test.

    p: twice the smaller share of resamples on either side of nothing, at least 1 in as many as there are.
    """
    gain = one - other
    found, finite = interval(gain[0], gain[1:], patients, confidence), gain[1:][np.isfinite(gain[1:])]
    tested = found["low"] is not None
    tail = min((finite <= 0).mean(), (finite >= 0).mean()) if tested else 0.0
    return found | {"p": float(min(1.0, max(2 * tail, 1 / len(finite)))) if tested else None}


def interval(value: float, samples: np.ndarray, patients: np.ndarray, confidence: float) -> dict[str, float | None]:
    """{value, low, high} of a figure and its resamples; None in place of what is not defined, and of the ends where
    fewer than LEAST_PATIENTS patients were resampled or LEAST_DEFINED of the resamples have a value."""
    finite, low, high = np.isfinite(samples), np.nan, np.nan
    if len(np.unique(patients)) >= LEAST_PATIENTS and finite.mean() > LEAST_DEFINED:
        tail = (1 - confidence) / 2 * 100
        low, high = np.percentile(samples[finite], (tail, 100 - tail))
    numbers = {"value": value, "low": low, "high": high}
    return {key: float(number) if np.isfinite(number) else None for key, number in numbers.items()}
