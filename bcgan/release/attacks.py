"""Attacks on a set of synthetic patches: who was the generator trained on?

Members are patches of training patients, non-members those of patients that the generator has not seen. An attacker
holds the synthetic patches, real patches of a person, and real patches of other people.

Attacks by distance follow GAN-Leaks (Chen et al. 2020), calibrated by real patches as in DOMIAS (van Breugel et al.
2023): a member's patches are nearer to the synthetic patches than to the patches of other people.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from bcgan.evaluate import intervals, metrics
from bcgan.gan.distances import all_distances, nearest

# Constants, not settings: an audit that could be loosened would show nothing.
CONFIDENCE_LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
FALSE_POSITIVE_RATE = 0.01  # at which the true positive rate is given
ALARM_RATE = 0.01  # chance that the true positive rate exceeds its limit without a leak
MIN_RATE_LIMIT = 3 * FALSE_POSITIVE_RATE  # which the limit of the true positive rate has at least
FAMILY_ERROR = 0.05  # chance that any patient stands out, in any space, without a leak
MIN_PATIENT_PATCHES = 5  # with fewer, a patient's mean score says little
MIN_DISTANCE = 1e-6  # smaller distances count as this
NUM_DRAWS = 5  # of equally many patients and patches


class RealPatches(NamedTuple):
    """Patches of training patients and of patients that the generator has not seen, in one space.

    Attributes:
        values: float32, (n, d).
        patients: (n,). The patient of each patch.
        is_member: bool, (n,). Whether the generator was trained on the patch.
    """

    values: np.ndarray
    patients: np.ndarray
    is_member: np.ndarray

    def select(self, rows: np.ndarray) -> "RealPatches":
        """Return some of the patches; `rows` is a mask or indices."""
        return RealPatches(self.values[rows], self.patients[rows], self.is_member[rows])


def log_ratio(distances: np.ndarray, reference_distances: np.ndarray) -> np.ndarray:
    """Return log(reference distance / distance), (n,): large where the reference is farther away."""
    return np.log(np.maximum(reference_distances, MIN_DISTANCE) / np.maximum(distances, MIN_DISTANCE))


def halve_patients(real: RealPatches) -> np.ndarray:
    """Divide the patients at random into two halves, members and non-members each by themselves.

    The non-members of one half are the reference patches for the other half (`score_membership`).

    Returns:
        bool, (n,). Whether a patch's patient is in the first half.
    """
    names = np.random.default_rng(SEED).permutation(np.unique(real.patients))
    is_member = np.isin(names, real.patients[real.is_member])
    first_half = [name for group in (names[is_member], names[~is_member]) for name in group[: len(group) // 2]]
    return np.isin(real.patients, first_half)


def score_membership(synthetic: np.ndarray, real: RealPatches, side: int | None) -> np.ndarray:
    """Return how much a real patch looks like one that the generator was trained on; float64, (n,).

    It is the logarithm of the distance to the nearest real patch of another non-member, divided by the distance to the
    nearest synthetic patch. Patients are divided into two halves; the non-members of one are the references of the
    other, so that members and non-members meet references of the same kind.

    Args:
        synthetic: float32, (m, d).
        side: As in `distances.nearest`.
    """
    distances, in_first = nearest(real.values, synthetic, side).distances, halve_patients(real)
    scores = np.empty(len(real.values))
    for half in (in_first, ~in_first):
        references = real.values[~half & ~real.is_member]
        scores[half] = log_ratio(distances[half], nearest(real.values[half], references, side).distances)
    return scores


def roc_auc(scores: np.ndarray, real: RealPatches) -> dict[str, float | None]:
    """Return {value, low, high} of the ROC AUC of a membership score, (n,), by patches; 0.5 is chance."""
    return _bootstrap(
        lambda weights: metrics.areas_under_curves(real.is_member, scores, weights)["roc_auc"], real.patients
    )


def true_positive_rate(scores: np.ndarray, real: RealPatches) -> dict[str, float | None]:
    """Return {value, low, high, limit} of the share of members where FALSE_POSITIVE_RATE of non-members is suspected.

    Chance is FALSE_POSITIVE_RATE. The limit is what as many unseen patients exceed with a probability of ALARM_RATE:
    the members are not resampled, so that a leak of a few of them is not taken for chance.
    """
    order = np.argsort(-scores, kind="stable")
    is_member = real.is_member[order]

    def measure(weights: np.ndarray) -> np.ndarray:
        """Return the rate under each row of weights, (resamples,)."""
        # Of the patches from the most suspected one down: members and non-members so far.
        sorted_weights = weights[:, order].astype(np.float64)
        recognized = np.cumsum(sorted_weights * is_member, 1)
        suspected = np.cumsum(sorted_weights * ~is_member, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            allowed = suspected <= FALSE_POSITIVE_RATE * suspected[:, -1:]
            return np.where(allowed, recognized, 0).max(1) / recognized[:, -1]

    estimate = _bootstrap(measure, real.patients)
    # The limit: the rates of unseen patients, drawn with replacement, as many as there are members.
    unseen_patients = real.patients[~real.is_member]
    is_suspected = scores[~real.is_member] > np.quantile(scores[~real.is_member], 1 - FALSE_POSITIVE_RATE)
    _, codes, counts = np.unique(unseen_patients, return_inverse=True, return_counts=True)
    suspected = np.bincount(codes, is_suspected)
    num_members = len(np.unique(real.patients[real.is_member]))
    drawn = np.random.default_rng(SEED).integers(len(counts), size=(RESAMPLES, num_members))
    rates = suspected[drawn].sum(1) / counts[drawn].sum(1)
    return estimate | {"limit": max(MIN_RATE_LIMIT, float(np.quantile(rates, 1 - ALARM_RATE)))}


def _bootstrap(measure: Callable[[np.ndarray], np.ndarray], patients: np.ndarray) -> dict[str, float | None]:
    """Return {value, low, high} of a metric, with an interval by bootstrap of the patients.

    Args:
        measure: Maps how often each patch counts, float32 (resamples, n), to the metric of each resample, (resamples,).
        patients: (n,). The patient of each patch.
    """
    weights = intervals.patient_weights(patients, RESAMPLES, SEED)
    # The first row is the observed set: every patch counts once.
    weights = np.concatenate([np.ones((1, len(patients)), np.float32), weights])
    values = [
        measure(weights[start : start + intervals.CHUNK_SIZE]) for start in range(0, len(weights), intervals.CHUNK_SIZE)
    ]
    return intervals.percentile_interval(np.concatenate(values)[None], patients, CONFIDENCE_LEVEL)


def average_by_patient(scores: np.ndarray, real: RealPatches) -> tuple[np.ndarray, RealPatches]:
    """Average a membership score over the patches of each patient.

    Returns:
        The mean scores, (patients,), sorted by name; and the patients in the form of patches, whose only value is a
        patient's number of patches, (patients, 1).
    """
    names, codes, counts = np.unique(real.patients, return_inverse=True, return_counts=True)
    means = np.bincount(codes, scores) / counts
    is_member = np.bincount(codes, real.is_member) > 0
    return means, RealPatches(counts[:, None].astype(np.float32), names, is_member)


def share_nearer_to_members(synthetic: np.ndarray, real: RealPatches, side: int | None) -> dict[str, float | None]:
    """Return {value, low, high} of the share of synthetic patches that are nearer to a member than to a non-member.

    As many patients, and patches of each, are members as non-members; without memorization the share is about 0.5. It
    is the mean over NUM_DRAWS draws. The interval is over patients, by the jackknife: a bootstrap would leave out a
    third of the patients, and with them the patches that were copied.

    Args:
        synthetic: float32, (n, d).
        side: As in `distances.nearest`.
    """
    rng = np.random.default_rng(SEED)
    names = [np.unique(real.patients[real.is_member == is_member]) for is_member in (True, False)]
    num_pairs = min(map(len, names))
    rows_of = {name: np.flatnonzero(real.patients == name) for name in np.concatenate(names)}
    distances = all_distances(synthetic, real.values, side)
    values, errors = [], []
    for _ in range(NUM_DRAWS):
        pairs = zip(*(rng.choice(group, num_pairs, replace=False) for group in names), strict=True)
        by_pair = []  # distances to the member and to the non-member of each pair
        for pair in pairs:
            count = min(len(rows_of[name]) for name in pair)
            pair_rows = [rng.choice(rows_of[name], count, replace=False) for name in pair]
            by_pair.append([distances[:, rows].min(1) for rows in pair_rows])
        nearest_of_pairs = np.array(by_pair)  # (pairs, 2, n)
        # The jackknife: the share without each pair.
        without = np.array([
            _share_nearer_to_first(np.delete(nearest_of_pairs, index, 0)) for index in range(num_pairs)
        ])  # fmt: skip
        values.append(_share_nearer_to_first(nearest_of_pairs))
        errors.append(np.sqrt((num_pairs - 1) / num_pairs * ((without - without.mean()) ** 2).sum()))
    value, margin = float(np.mean(values)), norm.ppf((1 + CONFIDENCE_LEVEL) / 2) * float(np.mean(errors))
    return {"value": value, "low": max(0.0, value - margin), "high": min(1.0, value + margin)}


def _share_nearer_to_first(distances: np.ndarray) -> float:
    """Return the share of queries that are nearer to the first kind; half of those at the same distance count.

    Args:
        distances: float, (pairs, 2, queries).
    """
    first, second = distances.min(0)
    return float((first < second).mean() + (first == second).mean() / 2)


class Linkage(NamedTuple):
    """The training patient that stands out most.

    Attributes:
        patient: Its name; for the owner of the data alone.
        value: Its mean membership score, in standard deviations of those of unseen patients.
        limit: What the largest of as many unseen patients exceeds with a probability of FAMILY_ERROR.
    """

    patient: str
    value: float
    limit: float


def find_most_exposed_patient(scores: np.ndarray, real: RealPatches, num_tests: int = 1) -> Linkage:
    """Return the training patient with the highest mean membership score, relative to the scores of unseen patients.

    Averages over all patients hide a single patient whose patches the generator memorized. A patient's mean varies
    between patients, and with the number of its patches. Patients with fewer than MIN_PATIENT_PATCHES are left out.

    Args:
        scores: float, (n,). Membership score of each real patch.
        num_tests: Spaces in which this is tested, all of which share FAMILY_ERROR. Defaults to 1.

    Raises:
        ValueError: If fewer than two unseen patients, or no member, have enough patches.
    """
    means, by_patient = average_by_patient(scores, real)
    counts = by_patient.values[:, 0]
    has_enough = counts >= MIN_PATIENT_PATCHES
    members, unseen = (np.flatnonzero(has_enough & (by_patient.is_member == is_member)) for is_member in (True, False))
    if not len(members) or len(unseen) < 2:
        raise ValueError(f"too few patients. Received: {len(members)} members and {len(unseen)} unseen patients")
    patient_of_patch = np.searchsorted(by_patient.patients, real.patients)
    deviations = (scores - means[patient_of_patch])[np.isin(patient_of_patch, unseen)]
    # The variance of a mean: that between patients, and that of patches within a patient divided by their number.
    within_variance = (deviations**2).sum() / max(1, len(deviations) - len(unseen))
    unseen_mean = means[unseen].mean()
    between_variance = max(0.0, means[unseen].var(ddof=1) - (within_variance / counts[unseen]).mean())
    errors = np.sqrt(np.maximum(between_variance + within_variance / counts[members], np.finfo(float).tiny))
    standardized = (means[members] - unseen_mean) / errors
    # The prediction limit of a further unseen patient, for the largest of all members in all spaces (Bonferroni).
    limit = t.ppf(1 - FAMILY_ERROR / (len(members) * num_tests), len(unseen) - 1) * np.sqrt(1 + 1 / len(unseen))
    most_exposed = int(standardized.argmax())
    return Linkage(str(by_patient.patients[members[most_exposed]]), float(standardized[most_exposed]), float(limit))
