"""Attacks on a set of synthetic patches: who was the generator trained on?

Members are patches of training patients, non-members those of patients that the generator has not seen. An attacker
holds the synthetic patches, real patches of a person, and real patches of other people.

Attacks by distance follow GAN-Leaks (Chen et al. 2020), calibrated by real patches as in DOMIAS (van Breugel et al.
2023): a member's patches are nearer to the synthetic patches than to the patches of other people.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from bcgan.evaluate import intervals, metrics

CHUNK_ROWS = 2048  # rows of each side whose distances are computed at a time
FALSE_POSITIVE_RATE = 0.01  # at which the true positive rate is given
MIN_DISTANCE = 1e-6  # smaller distances count as this
FAMILY_ERROR = 0.05  # chance that any patient is called recognizable if none is
MIN_PATIENT_PATCHES = 5  # with fewer, a patient's mean score says little


class RealPatches(NamedTuple):
    """Patches of training patients and of patients that the generator has not seen, in one space.

    Attributes:
        values: float32, (n, d); rows of pixels are images of `Space.side` pixels.
        patients: (n,). The patient of each patch.
        is_member: bool, (n,). Whether the generator was trained on the patch.
    """

    values: np.ndarray
    patients: np.ndarray
    is_member: np.ndarray


class Neighbors(NamedTuple):
    """The nearest neighbors between two sets.

    Attributes:
        distances: float64, (queries,). Of each query to its nearest reference.
        indices: integers, (queries,). Of those references.
        reference_distances: float64, (references,). Of each reference to its nearest query.
    """

    distances: np.ndarray
    indices: np.ndarray
    reference_distances: np.ndarray


def nearest(queries: np.ndarray, references: np.ndarray, side: int | None = None) -> Neighbors:
    """Find nearest neighbors by Euclidean distance.

    Args:
        queries, references: float32, (n, d) and (m, d).
        side: If rows are RGB images, their side in pixels; a distance is then the smallest over the eight orientations.
            Defaults to `None`: rows are compared as they are.
    """
    center = references.mean(0)  # smaller numbers round less
    references = references - center
    reference_norms = (references.astype(np.float64) ** 2).sum(1)
    squared, indices = np.full(len(queries), np.inf), np.zeros(len(queries), int)
    reference_squared = np.full(len(references), np.inf)
    for view in _orientations(queries, side):
        for start in range(0, len(queries), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            chunk = view[rows] - center
            norms = (chunk.astype(np.float64) ** 2).sum(1)
            for column in range(0, len(references), CHUNK_ROWS):
                columns = slice(column, column + CHUNK_ROWS)
                block = norms[:, None] + reference_norms[columns] - 2.0 * (chunk @ references[columns].T)
                best = block.argmin(1)
                lowest = block[np.arange(len(block)), best]
                indices[rows] = np.where(lowest < squared[rows], best + column, indices[rows])
                squared[rows] = np.minimum(squared[rows], lowest)
                reference_squared[columns] = np.minimum(reference_squared[columns], block.min(0))
    return Neighbors(np.sqrt(np.maximum(squared, 0)), indices, np.sqrt(np.maximum(reference_squared, 0)))


def _orientations(rows: np.ndarray, side: int | None) -> list[np.ndarray]:
    """Return rows of images in their eight orientations, or the rows themselves if they are no images."""
    if side is None:
        return [rows]
    images = rows.reshape(len(rows), side, side, -1)
    mirrored = (images, images[:, :, ::-1])
    return [
        np.ascontiguousarray(np.rot90(view, turns, (1, 2))).reshape(rows.shape)
        for view in mirrored
        for turns in range(4)
    ]


def score_membership(synthetic_distances: np.ndarray, real: RealPatches, side: int | None, seed: int) -> np.ndarray:
    """Return how much a real patch looks like one that the generator was trained on; float64, (n,).

    It is the logarithm of the distance to the nearest real patch of another non-member, divided by the distance to the
    nearest synthetic patch. Patients are divided into two halves; the non-members of one are the references of the
    other, so that members and non-members meet references of the same kind.

    Args:
        synthetic_distances: float, (n,). Of each real patch to its nearest synthetic one.
        side: As in `nearest`.
        seed: Of the halves.
    """
    names = np.random.default_rng(seed).permutation(np.unique(real.patients))
    member_names = np.unique(real.patients[real.is_member])
    first_half: set[str] = set()
    for is_member in (False, True):  # members and non-members are halved alike
        group = names[np.isin(names, member_names) == is_member]
        first_half |= set(group[: len(group) // 2])
    in_first = np.isin(real.patients, list(first_half))
    scores = np.empty(len(real.values))
    for half in (in_first, ~in_first):
        references = real.values[~half & ~real.is_member]
        reference_distances = nearest(real.values[half], references, side).distances
        ratio = np.maximum(reference_distances, MIN_DISTANCE) / np.maximum(synthetic_distances[half], MIN_DISTANCE)
        scores[half] = np.log(ratio)
    return scores


class Bootstrap(NamedTuple):
    """How intervals are computed: resamples of patients, and the level of confidence in (0, 1)."""

    resamples: int
    confidence_level: float
    seed: int


def roc_auc(scores: np.ndarray, real: RealPatches, bootstrap: Bootstrap) -> dict[str, float | None]:
    """Return {value, low, high} of the ROC AUC of a membership score, by patches; 0.5 is chance."""
    return _resample(
        lambda weights: metrics.areas_under_curves(real.is_member, scores, weights)["roc_auc"], real.patients, bootstrap
    )


def true_positive_rate(scores: np.ndarray, real: RealPatches, bootstrap: Bootstrap) -> dict[str, float | None]:
    """Return {value, low, high} of the share of members found where FALSE_POSITIVE_RATE of non-members is suspected.

    Chance is FALSE_POSITIVE_RATE.
    """
    order = np.argsort(-scores, kind="stable")
    is_member = real.is_member[order]

    def measure(weights: np.ndarray) -> np.ndarray:
        sorted_weights = weights[:, order].astype(np.float64)
        found = np.cumsum(sorted_weights * is_member, 1)
        suspected = np.cumsum(sorted_weights * ~is_member, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            allowed = suspected <= FALSE_POSITIVE_RATE * suspected[:, -1:]
            return np.where(allowed, found, 0).max(1) / found[:, -1]

    return _resample(measure, real.patients, bootstrap)


def _resample(measure, patients: np.ndarray, bootstrap: Bootstrap) -> dict[str, float | None]:
    """Return {value, low, high} of a measure of weights (resamples, n), over resamples of the patients."""
    weights = intervals.patient_weights(patients, bootstrap.resamples, bootstrap.seed)
    weights = np.concatenate([np.ones((1, len(patients)), np.float32), weights])
    values = [
        measure(weights[start : start + intervals.CHUNK_SIZE]) for start in range(0, len(weights), intervals.CHUNK_SIZE)
    ]
    return intervals.percentile_interval(np.concatenate(values), patients, bootstrap.confidence_level)


def average_by_patient(scores: np.ndarray, real: RealPatches) -> tuple[np.ndarray, RealPatches]:
    """Return the mean score of each patient, and the patients as if each were a patch, with the number as values."""
    names, codes, counts = np.unique(real.patients, return_inverse=True, return_counts=True)
    means = np.bincount(codes, scores) / counts
    is_member = np.bincount(codes, real.is_member) > 0
    return means, RealPatches(counts[:, None].astype(np.float32), names, is_member)


def share_nearer_to_members(
    synthetic: np.ndarray, real: RealPatches, side: int | None, bootstrap: Bootstrap
) -> dict[str, float | None]:
    """Return {value, low, high} of the share of synthetic patches that are nearer to a member than to a non-member.

    As many members as non-members are compared. Without memorization it is about 0.5. The interval is over patients.

    Args:
        synthetic: float32, (n, d).
        side: As in `nearest`.
    """
    rng = np.random.default_rng(bootstrap.seed)
    groups = [np.flatnonzero(real.is_member == kind) for kind in (True, False)]
    count = min(map(len, groups))
    rows = np.sort(np.concatenate([rng.choice(group, count, replace=False) for group in groups]))
    names = np.unique(real.patients[rows])
    by_patient = np.stack([
        nearest(synthetic, real.values[rows[real.patients[rows] == name]], side).distances for name in names
    ], 1)  # fmt: skip
    is_member = np.isin(names, real.patients[real.is_member])

    def measure(chosen: np.ndarray) -> float:
        members, others = by_patient[:, chosen & is_member], by_patient[:, chosen & ~is_member]
        return float((members.min(1) < others.min(1)).mean())

    everyone = np.ones(len(names), bool)
    value, without = measure(everyone), np.array([measure(everyone & (names != name)) for name in names])
    # The jackknife. A bootstrap would leave out a third of the patients, and with them the patches that were copied.
    error = np.sqrt((len(names) - 1) / len(names) * ((without - without.mean()) ** 2).sum())
    margin = norm.ppf((1 + bootstrap.confidence_level) / 2) * error
    return {"value": value, "low": max(0.0, value - margin), "high": min(1.0, value + margin)}


class Linkage(NamedTuple):
    """The training patient that stands out most.

    Attributes:
        patient: Its name; for the owner of the data alone.
        value: Its mean membership score, in standard deviations of those of unseen patients; `None` if too few
            patients have MIN_PATIENT_PATCHES patches.
        limit: What the largest of as many unseen patients reaches with a probability of FAMILY_ERROR.
    """

    patient: str | None
    value: float | None
    limit: float | None


def find_most_exposed_patient(scores: np.ndarray, real: RealPatches) -> Linkage:
    """Return the training patient with the highest mean membership score, held against unseen patients."""
    means, patients = average_by_patient(scores, real)
    has_enough = patients.values[:, 0] >= MIN_PATIENT_PATCHES
    members, others = (np.flatnonzero(has_enough & (patients.is_member == kind)) for kind in (True, False))
    if not len(members) or len(others) < intervals.MIN_PATIENTS:
        return Linkage(None, None, None)
    spread = means[others].std(ddof=1)
    deviations = (means[members] - means[others].mean()) / spread
    # The prediction limit of a further unseen patient, for the largest of all members (Bonferroni).
    limit = t.ppf(1 - FAMILY_ERROR / len(members), len(others) - 1) * np.sqrt(1 + 1 / len(others))
    most = int(deviations.argmax())
    return Linkage(str(patients.patients[members[most]]), float(deviations[most]), float(limit))
