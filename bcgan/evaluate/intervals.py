"""Bootstrap intervals over patients, widened by what trainings vary.

Patients are resampled, not patches, because a patient's patches resemble each other. Results also vary between
trainings, of which there are too few to be resampled: their variance widens the intervals (`widen`).
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from bcgan.classify import calibration
from bcgan.evaluate import metrics

METRICS_OF_ALL_PATCHES = ("accuracy", "brier", "ece", "loss")  # beginnings of their names
METRICS_OF_ONE_CLASS = {"sensitivity": 1, "specificity": 0}  # of two classes: the label
COMPARED_METRICS = ("roc_auc", "balanced_accuracy", "f1")
UNLIMITED = (-np.inf, np.inf)
MIN_PATIENTS = 8  # with fewer, an interval is meaningless
MIN_DEFINED_FRACTION = 0.9  # of the resamples in which a metric must be defined
CHUNK_SIZE = 50  # resamples measured at a time, which limits the memory


def patient_weights(patients: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return how often each patch, whose patient `patients` has, counts in each resample: float32, (resamples, n)."""
    codes = np.unique(patients, return_inverse=True)[1]
    count = codes.max() + 1
    # Drawing as many patients with replacement is one draw of a multinomial distribution of their counts.
    counts = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return counts[:, codes].astype(np.float32)


class SeedPredictions(NamedTuple):
    """A classifier's predictions by each of its trainings."""

    probabilities: dict[int, np.ndarray]  # by seed: of the second of two classes, (n,), or of each, (n, classes)
    # by seed: one, or one for each patch, (n,), selected on validation; `None` with more than two classes
    thresholds: dict[int, float | np.ndarray | None]
    # (n,), of cross-validation: areas under curves compare patches of the same fold only; `None` otherwise
    folds: np.ndarray | None = None

    def select(self, rows: np.ndarray) -> "SeedPredictions":
        """Return the predictions of some patches; `rows` is a mask or indices."""
        return SeedPredictions(
            {seed: values[rows] for seed, values in self.probabilities.items()},
            {seed: value[rows] if isinstance(value, np.ndarray) else value for seed, value in self.thresholds.items()},
            None if self.folds is None else self.folds[rows],
        )

    def against_rest(self, label: int) -> "SeedPredictions":
        """Return the predictions of one of more than two classes against the rest, {seed: (n,)}.

        A patch is called the class if no other is more probable. So each patch has its own threshold: its probability
        of the class if it is called that, else infinity.
        """
        pairs = {seed: metrics.against_rest(values, label) for seed, values in self.probabilities.items()}
        return SeedPredictions(
            {seed: scores for seed, (scores, _) in pairs.items()},
            {seed: thresholds for seed, (_, thresholds) in pairs.items()},
            self.folds,
        )


class CalibratedPredictions(NamedTuple):
    """A classifier's predictions before and after their calibration."""

    original: SeedPredictions
    calibrated: SeedPredictions
    calibrations: dict[int, calibration.Calibration]  # by seed

    def called(self) -> SeedPredictions:
        """Return the predictions that decide the class: original ones of two classes, calibrated ones of more."""
        is_binary = all(values.ndim == 1 for values in self.original.probabilities.values())
        return self.original if is_binary else self.calibrated


def calibrate(predictions: SeedPredictions, validation: np.ndarray, labels: np.ndarray) -> CalibratedPredictions:
    """Fit a calibration of each seed's probabilities on validation patches, and apply it to all patches.

    Args:
        validation: bool, (n,). Whether a patch is a validation patch.
        labels: integers, (n,).
    """
    calibrations = {
        seed: calibration.fit(values[validation], labels[validation])
        for seed, values in predictions.probabilities.items()
    }
    calibrated = {seed: calibration.apply(calibrations[seed], predictions.probabilities[seed]) for seed in calibrations}
    return CalibratedPredictions(predictions, predictions._replace(probabilities=calibrated), calibrations)


def bootstrap_metrics(labels: np.ndarray, predictions: SeedPredictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric of `metrics.NAMES` of each training, on the observed patches and on each resample of patients.

    Args:
        labels: integers, (n,).
        weights: From `patient_weights`, (resamples, n).

    Returns:
        {metric: float, (trainings, 1 + resamples)}; column 0 is the observed metric.
    """
    weights = np.concatenate([np.ones((1, len(labels)), np.float32), weights])
    chunks = [weights[start : start + CHUNK_SIZE] for start in range(0, len(weights), CHUNK_SIZE)]
    by_seed = []
    for seed, scores in predictions.probabilities.items():
        threshold = predictions.thresholds[seed]
        measured = [metrics.compute_metrics(labels, scores, threshold, chunk, predictions.folds) for chunk in chunks]
        by_seed.append({name: np.concatenate([chunk[name] for chunk in measured]) for name in metrics.NAMES})
    return {name: np.stack([values[name] for values in by_seed]) for name in metrics.NAMES}


class TrainingNoise(NamedTuple):
    """The variance that trainings add to a mean over them, and its degrees of freedom."""

    variance: float
    degrees: int


def training_noise(by_training: np.ndarray) -> tuple[TrainingNoise, ...]:
    """Return the noise of the mean of a metric over trainings, (trainings,); none if there is one, or all are equal."""
    count = len(by_training)
    variance = float(by_training.var(ddof=1)) / count if count > 1 else 0.0
    return (TrainingNoise(variance, count - 1),) if variance > 0 else ()


def _noise_of_difference(
    candidate: np.ndarray, reference: np.ndarray, are_trainings: bool
) -> tuple[TrainingNoise, ...]:
    """Return the noise of the difference of two means over trainings, (trainings,) each.

    Args:
        are_trainings: Whether both are trained networks: a single training, which shows nothing of how such trainings
            vary, is then taken to vary as the several of the other one do.
    """
    several, single = sorted((candidate, reference), key=len, reverse=True)
    if are_trainings and len(single) == 1:
        return tuple(noise._replace(variance=(1 + len(several)) * noise.variance) for noise in training_noise(several))
    return training_noise(candidate) + training_noise(reference)


def widen(resamples: np.ndarray, noises: tuple[TrainingNoise, ...], num_patients: int, confidence: float) -> np.ndarray:
    """Return resamples of patients, spread further about their mean by what trainings vary.

    Their variance grows by that of the trainings. Two or three trainings say little about their variance, so that
    percentiles of the sum would be too narrow: the quantile of Student's t, whose degrees of freedom are those of
    Welch and Satterthwaite, replaces that of the patients alone. Without noise the resamples are unchanged.

    Args:
        resamples: float, (resamples,), NaN where undefined. A mean over the trainings, or a difference of two means.
        noises: From `training_noise`, of each mean.
        num_patients: That were resampled.
        confidence: In (0, 1), of the interval.
    """
    finite = resamples[np.isfinite(resamples)]
    if not noises or not len(finite):
        return resamples
    error, degrees = _standard_error(finite, noises, num_patients)
    center, of_patients, upper = finite.mean(), finite.std(), (1 + confidence) / 2
    if of_patients < 1e-5 * error:  # no resample differs: the trainings alone vary
        return center + error * stdtrit(degrees, (np.arange(len(resamples)) + 0.5) / len(resamples))
    factor = error / of_patients * stdtrit(degrees, upper) / stdtrit(max(1, num_patients - 1), upper)
    return center + factor * (resamples - center)


def _standard_error(resamples: np.ndarray, noises: tuple[TrainingNoise, ...], num_patients: int) -> tuple[float, float]:
    """Return the standard error over patients and trainings, and Welch and Satterthwaite's degrees of freedom.

    Arguments as in `widen`; all resamples are defined.
    """
    of_patients = TrainingNoise(float(resamples.var()), max(1, num_patients - 1))
    variance = sum(part.variance for part in (of_patients, *noises))
    parts = sum(part.variance**2 / part.degrees for part in (of_patients, *noises))
    return float(np.sqrt(variance)), variance**2 / parts


def metrics_with_intervals(
    labels: np.ndarray,
    predictions: SeedPredictions,
    patients: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return every metric, averaged over the training seeds, with an interval over patients and trainings.

    Args:
        labels: integers, (n,).
        patients: (n,). The patient of each patch.
        resamples: Number of bootstrap resamples.
        confidence: Of the interval, in (0, 1).
        seed: Of the resampling.

    Returns:
        {metric: {value, low, high, seeds}}. value, low, high: float, or `None` if undefined, such as ROC AUC of patches
        of one class. seeds: number of trainings.
    """
    weights = patient_weights(patients, resamples, seed)
    by_metric = bootstrap_metrics(labels, predictions, weights)
    return {
        name: percentile_interval(values, patients_of_metric(name, labels, patients), confidence, limits_of(name))
        | {"seeds": len(predictions.probabilities)}
        for name, values in by_metric.items()
    }


def limits_of(metric: str) -> tuple[float, float]:
    """Return the smallest and the largest value that a metric of `metrics.NAMES` can have."""
    return (0.0, np.inf) if metric == "loss" else (0.0, 1.0)


def patients_of_metric(metric: str, labels: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return the patient of each patch of the class that limits a metric's interval: the one of the fewest patients.

    Sensitivity and specificity of two classes are those of one class; accuracy and errors of probabilities are of all
    patches.

    Args:
        metric: Of `metrics.NAMES`, or an accuracy by another rule.
        labels, patients: (n,). Of each patch.
    """
    if metric.startswith(METRICS_OF_ALL_PATCHES):
        return patients
    if metric in METRICS_OF_ONE_CLASS and labels.max(initial=0) <= 1:
        return patients[labels == METRICS_OF_ONE_CLASS[metric]]
    by_class = [patients[labels == label] for label in np.unique(labels)]
    return min(by_class, key=lambda names: len(np.unique(names)), default=patients)


def paired_difference(
    candidate: np.ndarray,
    reference: np.ndarray,
    patients: np.ndarray,
    confidence: float,
    same_seeds: bool = False,
    are_trainings: bool = False,
) -> dict[str, float | None]:
    """Return {value, low, high, p, p_floor} of candidate minus reference: a paired bootstrap test.

    p: two-sided; `None` without an interval. Where several trainings vary, of Student's t with the standard error of
    `widen`. Else twice the smaller share of resamples at or beyond 0, which inverts the percentile interval. p_floor is
    then the smallest p that so many resamples can give, at which p is only known to be below; else `None`.

    Args:
        candidate, reference: A metric from `bootstrap_metrics` with the same weights, (trainings, 1 + resamples).
        patients: (n,). The patient of each patch that the metric is defined on, from `patients_of_metric`.
        confidence: In (0, 1).
        same_seeds: Whether trainings are paired too, such as by the patients that they were trained on. Defaults to
            False.
        are_trainings: Whether both are trained networks: a single training is then taken to vary as those of the other
            do. Defaults to False.
    """
    gain = candidate.mean(0) - reference.mean(0)
    if same_seeds:
        noises = training_noise(candidate[:, 0] - reference[:, 0])
    else:
        noises = _noise_of_difference(candidate[:, 0], reference[:, 0], are_trainings)
    defined_gains, num_patients = gain[1:][np.isfinite(gain[1:])], len(np.unique(patients))
    gain[1:] = widen(gain[1:], noises, num_patients, confidence)
    estimate = percentile_interval(gain[None], patients, confidence)
    has_interval = estimate["low"] is not None
    if has_interval and noises:
        error, degrees = _standard_error(defined_gains, noises, num_patients)
        return estimate | {"p": float(2 * stdtr(degrees, -abs(gain[0]) / error)), "p_floor": None}
    num_beyond = min((defined_gains <= 0).sum(), (defined_gains >= 0).sum())
    floor = 2 / (len(defined_gains) + 1)
    p = min(1.0, floor * (num_beyond + 1))
    return estimate | {"p": float(p) if has_interval else None, "p_floor": floor if has_interval else None}


def compare_metrics(
    candidate: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    labels: np.ndarray,
    patients: np.ndarray,
    confidence: float,
    are_trainings: bool = False,
) -> list[dict[str, Any]]:
    """Return {metric, value, low, high, p, p_floor} of candidate minus reference, for each of COMPARED_METRICS.

    Args:
        candidate, reference: From `bootstrap_metrics`, with the same patches and weights.
        labels, patients: (n,). Of each patch.
        confidence, are_trainings: As `paired_difference` takes them.
    """
    differences = []
    for metric in COMPARED_METRICS:
        limiting = patients_of_metric(metric, labels, patients)
        difference = paired_difference(
            candidate[metric], reference[metric], limiting, confidence, are_trainings=are_trainings
        )
        differences.append({"metric": metric, **difference})
    return differences


def predictions_of_trials(
    trials: dict[int, dict[str, np.ndarray]], labels: np.ndarray, role: str = "test"
) -> SeedPredictions:
    """Return the probabilities of trials, with the thresholds of the largest Youden index on validation patches.

    Those of more than two classes are calibrated.

    Args:
        trials: {seed: {test, validation: probabilities}}.
        labels: integers, of the validation patches.
        role: Whose probabilities, `test` or `validation`. Defaults to `test`.
    """
    probabilities = {}
    for seed, arrays in trials.items():
        probabilities[seed] = arrays[role]
        if arrays[role].ndim == 2:
            probabilities[seed] = calibration.apply(calibration.fit(arrays["validation"], labels), arrays[role])
    thresholds = {seed: metrics.select_threshold(labels, arrays["validation"]) for seed, arrays in trials.items()}
    return SeedPredictions(probabilities, thresholds)


def mean_with_interval(
    values: np.ndarray, patients: np.ndarray, resamples: int, confidence: float, seed: int
) -> dict[str, float | None]:
    """Return {value, low, high}: the mean of the finite `values`, with a bootstrap interval over patients.

    Args:
        values: float, (n,). A value for each patch; NaN if it is not defined. (trainings, n): the mean over trainings.
        patients: (n,). The patient of each patch.
        resamples: Number of bootstrap resamples.
        confidence: Of the interval, in (0, 1).
        seed: Of the resampling.
    """
    values = np.atleast_2d(values)
    finite = np.isfinite(values)
    weights = np.concatenate([np.ones((1, len(patients))), patient_weights(patients, resamples, seed)])
    with np.errstate(invalid="ignore"):
        means = (np.where(finite, values, 0) @ weights.T) / (finite @ weights.T)
    return percentile_interval(means, patients[finite.any(0)], confidence)


def resampled_means(
    values: np.ndarray, num_patients: int, confidence: float, limits: tuple[float, float] = UNLIMITED
) -> np.ndarray:
    """Return the mean over trainings of each resample, spread further by `widen`, within the limits of the metric.

    Args:
        values: float, (trainings, 1 + resamples), from `bootstrap_metrics`.
        num_patients, confidence: As `widen` takes them.
        limits: The smallest and the largest value that the metric can have. Defaults to none.
    """
    return widen(values[:, 1:].mean(0), training_noise(values[:, 0]), num_patients, confidence).clip(*limits)


def percentile_interval(
    values: np.ndarray, patients: np.ndarray, confidence: float, limits: tuple[float, float] = UNLIMITED
) -> dict[str, float | None]:
    """Return {value, low, high} of a metric's mean over trainings, with a percentile interval over `resampled_means`.

    An undefined value is `None`. So are low and high with fewer than MIN_PATIENTS patients, or if the metric is defined
    in MIN_DEFINED_FRACTION of the resamples or fewer.

    Args:
        values: float, (trainings, 1 + resamples), from `bootstrap_metrics`. Column 0 is the observed metric.
        patients: (n,). The patient of each patch that the metric is defined on, from `patients_of_metric`.
        confidence: In (0, 1).
        limits: As `resampled_means` takes them.
    """
    value, samples = values[:, 0].mean(), resampled_means(values, len(np.unique(patients)), confidence, limits)
    finite, low, high = np.isfinite(samples), np.nan, np.nan
    if len(np.unique(patients)) >= MIN_PATIENTS and finite.mean() > MIN_DEFINED_FRACTION:
        tail = (1 - confidence) / 2 * 100
        low, high = np.percentile(samples[finite], (tail, 100 - tail))
    numbers = {"value": value, "low": low, "high": high}
    return {key: float(number) if np.isfinite(number) else None for key, number in numbers.items()}


def format_estimate(estimate: dict) -> str:
    """Return {value, low, high} as text, such as `0.928 (0.901 to 0.950)`."""
    if estimate["value"] is None:
        return "not defined"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
