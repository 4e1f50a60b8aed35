"""Intervals by bootstrap: whole patients are drawn, since a patient's patches resemble each other, and trainings, since
another seed gives other weights."""

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
    """probabilities: {seed: (n,)}, one entry a training. thresholds: {seed: threshold, or (n,)}, chosen on
    validation."""

    probabilities: dict[int, np.ndarray]
    thresholds: dict[int, float | np.ndarray]


def resampled(
    labels: np.ndarray, scored: Scored, weights: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Every figure of the patches as they are, then under each weighting, (1 + resamples,), as `over_seeds` has it."""
    weights = np.concatenate([np.ones((1, len(labels)), np.float32), weights])
    blocks = [weights[start : start + BLOCK] for start in range(0, len(weights), BLOCK)]
    seed_blocks = [
        [metrics.measure(labels, scores, scored.thresholds[seed], block) for block in blocks]
        for seed, scores in scored.probabilities.items()
    ]
    counts = draw_seeds(len(seed_blocks), len(weights) - 1, rng)
    return {
        name: over_seeds(
            np.stack([np.concatenate([block[name] for block in seed_block]) for seed_block in seed_blocks]), counts
        )
        for name in metrics.NAMES
    }


def draw_seeds(seeds: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each training counts in each resample, (resamples, seeds): one fewer is drawn than there are, with
    which the mean of so few varies as it should (Rao and Wu 1988)."""
    return rng.multinomial(max(1, seeds - 1), np.full(seeds, 1 / seeds), size=resamples)


def over_seeds(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A figure's mean over the trainings, then in every resample over those drawn.

    Args:
        values: float, (seeds, 1 + resamples). The patches as they are, then resampled.
        counts: integers, (resamples, seeds).
    """
    drawn = np.where(counts.T > 0, values[:, 1:] * counts.T, 0).sum(0) / counts.sum(1)
    return np.concatenate([[values[:, 0].mean()], drawn])


def with_intervals(
    labels: np.ndarray, scored: Scored, patients: np.ndarray, resamples: int, confidence: float, seed: int
) -> dict[str, dict[str, Any]]:
    """Every figure as {value, low, high, seeds}: the mean over the seeds, and percentiles of that mean over drawn
    patients and seeds.

    Args:
        labels: integers 0 or 1, (n,).
        patients: (n,). The patient of each patch.

    Returns:
        {metric: {value, low, high, seeds}}; None in place of what cannot be computed, as with one class alone, and
        of intervals over fewer than LEAST_PATIENTS patients.
    """
    by_metric = resampled(labels, scored, patient_weights(patients, resamples, seed), np.random.default_rng((seed, 1)))
    return {
        name: interval(values, patients, confidence) | {"seeds": len(scored.probabilities)}
        for name, values in by_metric.items()
    }


def difference(
    candidate: np.ndarray, reference: np.ndarray, patients: np.ndarray, confidence: float
) -> dict[str, float | None]:
    """Return {value, low, high, p} of candidate minus reference, two figures of `resampled`: a paired test.

    p: two-sided, twice the smaller share of resamples at or beyond 0; it inverts the percentile interval.

    Args:
        candidate, reference: (1 + resamples,), under the same weightings; element 0 is the observed figure.
        patients: (n,), of the patches; with too few there is no interval and no p.
        confidence: In (0, 1).
    """
    gain = candidate - reference
    estimate, finite = interval(gain, patients, confidence), gain[1:][np.isfinite(gain[1:])]
    tested = estimate["low"] is not None
    beyond = min((finite <= 0).sum(), (finite >= 0).sum())
    return estimate | {"p": float(min(1.0, 2 * (beyond + 1) / (len(finite) + 1))) if tested else None}


def of_trainings(trained: dict[int, dict[str, np.ndarray]], labels: np.ndarray) -> Scored:
    """What trials say of the test patches, each with the threshold of its largest Youden index on the validation ones.

    Args:
        trained: {seed: {test, validation: probabilities}}.
        labels: 0 or 1, of the validation patches.
    """
    rules = {seed: metrics.operating_points(labels, training["validation"]) for seed, training in trained.items()}
    return Scored(
        {s: training["test"] for s, training in trained.items()}, {s: rule["youden"] for s, rule in rules.items()}
    )


def of_mean(
    values: np.ndarray, patients: np.ndarray, resamples: int, confidence: float, seed: int
) -> dict[str, float | None]:
    """{value, low, high} of a mean over patches, (n,), of those that are numbers."""
    known = np.isfinite(values)
    weights = np.concatenate([np.ones((1, len(values))), patient_weights(patients, resamples, seed)])
    with np.errstate(invalid="ignore"):
        means = (weights @ np.where(known, values, 0)) / (weights @ known)
    return interval(means, patients, confidence)


def interval(values: np.ndarray, patients: np.ndarray, confidence: float) -> dict[str, float | None]:
    """{value, low, high} of a figure and, behind it, its resamples, (1 + resamples,).

    None in place of what is not defined, and of the ends where fewer than LEAST_PATIENTS patients were resampled or
    LEAST_DEFINED of the resamples have a value.
    """
    value, samples = values[0], values[1:]
    finite, low, high = np.isfinite(samples), np.nan, np.nan
    if len(np.unique(patients)) >= LEAST_PATIENTS and finite.mean() > LEAST_DEFINED:
        tail = (1 - confidence) / 2 * 100
        low, high = np.percentile(samples[finite], (tail, 100 - tail))
    numbers = {"value": value, "low": low, "high": high}
    return {key: float(number) if np.isfinite(number) else None for key, number in numbers.items()}


def describe(figure: dict) -> str:
    """`0.928 (0.901 to 0.950)`."""
    if figure["value"] is None:
        return "not defined"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
