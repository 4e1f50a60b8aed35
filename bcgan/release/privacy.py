"""The privacy audit: what a set of synthetic patches gives away about the patients that the generator was trained on.

Training patients are members; validation and test patients, which the generator has not seen, are not. Patients of
another group, such as `unlisted`, are left out: they differ from training patients in more than membership. Patches are
compared by pixels, by features of a network that was trained on no patient, and by stain.

The audit is evidence, not a proof: an attack that is not in it may succeed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from bcgan.classify import reference_cnn
from bcgan.data import batches
from bcgan.data.rows import ImageRows
from bcgan.errors import InputError
from bcgan.gan.distances import (
    PIXEL_SIDE,
    References,
    average_orientations,
    nearest,
    prepare,
    reduce_pixels,
)
from bcgan.models import weights
from bcgan.models.efficientnet_lite import has_weights, make_pooled_feature_fn
from bcgan.preprocess.stain import optical_density
from bcgan.preprocess.store import Store
from bcgan.release import attacks
from bcgan.release.attacks import RealPatches

SPACES = {"pixels": PIXEL_SIDE, "features": None, "stain": None}  # the side of rows that are images
PATCH_SPACES = ("pixels", "features")  # in which single patches are recognized; stain is a patient's
UNSEEN_ROLES = ("validation", "validation_other", "test", "test_other")
EITHER_SPACE = "pixels or features"
MIN_PATIENTS = 20  # members, and as many others, with MIN_PATIENT_PATCHES patches; fewer give any result by chance
MAX_PATIENT_PATCHES = 100  # of each patient in the attacks, so that no patient is most of them
CLOSEST_FRACTION = 0.01  # of unseen patients' patches: those that look most like training patches are the limit
CHUNK_IMAGES = 256  # represented at a time
MAX_COMPARED = 2000  # synthetic patches whose nearest real patient is found, patient by patient
MAX_REMOVED = 0.1  # of the candidates of a class; of unseen patches, about 0.02 are beyond the limits of two spaces
MAX_SHARE = 0.55  # of patches nearer to members than to others, and of membership ROC AUCs, where 0.5 is chance
MAX_UPPER_END = 0.75  # of an interval around 0.5: beyond it there are too few patients to exclude a leak
TITLES = {
    "removed_fraction": "Candidates removed, as too near to a training patch",
    "nearer_than_unseen": "Candidates nearer to training patches than unseen patches are",
    "nearer_to_members": "Patches nearer to a training patch than to an unseen one",
    "membership_patches": "Training patches recognised (ROC AUC)",
    "true_positive_rate": "Training patches recognised, at 1 % false alarms",
    "membership_patients": "Training patients recognised (ROC AUC)",
    "linkage": "Most exposed training patient (standard deviations)",
    "loss_of_roc_auc": "Loss of ROC AUC by training on the release",
}
TRAIN_DIFFERENTLY = "Train the generator on more patients, with gan.diff_augment, or for fewer steps."
REMEDIES = {
    "removed_fraction": f"The generator comes close to training patches too often. {TRAIN_DIFFERENTLY}",
    "nearer_to_members": f"{TRAIN_DIFFERENTLY} If the interval is wide, hold out more patients.",
    "membership_patches": f"{TRAIN_DIFFERENTLY} If the interval is wide, hold out more patients.",
    "true_positive_rate": f"Some training patches can be recognised. {TRAIN_DIFFERENTLY}",
    "membership_patients": f"{TRAIN_DIFFERENTLY} If the interval is wide, hold out more patients.",
    "loss_of_roc_auc": "Networks learn less from these patches than from real ones. Train the GAN for longer or on "
    "more patients, or release more patches.",
    "linkage": "One training patient stands out; the run's release/audit.json names it. Train the generator without "
    "that patient, or on more patients.",
}


class Check(NamedTuple):
    """One result of the audit.

    Attributes:
        name: A key of TITLES.
        space: A key of SPACES, EITHER_SPACE, or the network that is attacked or trained.
        value, low, high: The result and its interval over patients, `None` where there is none.
        limit: What the result may reach; `None` for information. Where 0.5 is chance, it holds on both sides.
        passed: `None` for information.
    """

    name: str
    space: str
    value: float | None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    passed: bool | None = None


class Sets(NamedTuple):
    """The real patches of the audit.

    Attributes:
        training: Every training patch, by space of PATCH_SPACES.
        training_rows: Their rows in the store.
        halves: The unseen patches of each half of the patients, by space of PATCH_SPACES.
        real: The patches of the attacks by space, at most MAX_PATIENT_PATCHES of a patient.
        rows: Their rows in the store.
        stain_scale: By which the numbers of stain in `real` are divided, (6,).
    """

    training: dict[str, References]
    training_rows: np.ndarray
    halves: dict[str, tuple[References, References]]
    real: dict[str, RealPatches]
    rows: np.ndarray
    stain_scale: np.ndarray


def check_patients(store: Store) -> None:
    """Raise InputError if the audit is impossible: patients are unknown, or too few were held out."""
    index = store.index
    if (index["patient"] == index["id"]).all():
        raise InputError(
            "The data set names no patients, and the privacy audit compares patients. Use data with patients, such as "
            "files <patient>/<class>/<image> (data.name=patient_folder)."
        )
    for roles, kind in ((("train",), "was trained on"), (UNSEEN_ROLES, "has not seen")):
        counts = index["patient"][index["role"].isin(roles)].value_counts()
        count = int((counts >= attacks.MIN_PATIENT_PATCHES).sum())
        if count < MIN_PATIENTS:
            raise InputError(
                f"There are {count} patients with {attacks.MIN_PATIENT_PATCHES} patches or more that the generator "
                f"{kind}. The audit compares patients that it was trained on with others, and needs {MIN_PATIENTS} of "
                "each: with fewer any result is chance. Hold out more patients, or train on more."
            )


def make_feature_fn(root: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Return the function from uint8 patches to features, (n, d), and the network's name.

    It is EfficientNet-Lite2 as trained on ImageNet. Where that is not installed, it is the run's reference CNN, which
    was trained on the training patients. Features are means over the eight orientations of a patch.
    """
    if has_weights("lite2"):
        extract, name = make_pooled_feature_fn("lite2"), "efficientnet_lite2"
    else:
        extract = reference_cnn.make_feature_fn(weights.load_model(root / "features" / "reference_cnn.keras"))
        name = reference_cnn.NETWORK

    return average_orientations(extract), name


def represent(images: np.ndarray | ImageRows, extract: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """Return patches in every space, float32, (n, d).

    Args:
        images: uint8, (n, size, size, 3).
        extract: From `make_feature_fn`.
    """
    chunks = [
        {"pixels": reduce_pixels(chunk), "features": extract(chunk).astype(np.float32), "stain": _stain_moments(chunk)}
        for chunk in (images[start : start + CHUNK_IMAGES] for start in range(0, len(images), CHUNK_IMAGES))
    ]
    return {name: np.concatenate([values[name] for values in chunks]) for name in SPACES}


def _stain_moments(images: np.ndarray) -> np.ndarray:
    """Return the mean and the standard deviation of the optical density of each channel, float32, (n, 6)."""
    density = optical_density(images).reshape(len(images), -1, 3)
    return np.concatenate([density.mean(1), density.std(1)], 1).astype(np.float32)


def select_rows(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of the store: all of training patients, and at most MAX_PATIENT_PATCHES of each unseen patient."""
    index = store.index
    training, unseen = (np.flatnonzero(index["role"].isin(roles)) for roles in (("train",), UNSEEN_ROLES))
    return training, _cap_by_patient(index["patient"], unseen)


def _cap_by_patient(patients: pd.Series, rows: np.ndarray) -> np.ndarray:
    """Return at most MAX_PATIENT_PATCHES of the rows of each patient, drawn at random, sorted by row number."""
    order = np.random.default_rng(attacks.SEED).permutation(rows)
    # The number of each row among those of its patient, in random order.
    rank = patients.iloc[order].groupby(patients.iloc[order], sort=False).cumcount().to_numpy()
    return np.sort(order[rank < MAX_PATIENT_PATCHES])


def make_sets(store: Store, values: dict[str, np.ndarray]) -> Sets:
    """Collect the real patches that the attacks compare with the synthetic ones.

    Args:
        values: {space: float32, (n, d)} from `represent`, of the patches of `select_rows`: all training ones, then all
            unseen ones.
    """
    training, unseen = select_rows(store)
    patients = store.index["patient"]
    members = _cap_by_patient(patients, training)
    rows = np.concatenate([members, unseen])  # of the store; `value_rows` are the same patches in `values`
    value_rows = np.concatenate([np.searchsorted(training, members), len(training) + np.arange(len(unseen))])
    is_member = np.arange(len(rows)) < len(members)
    # Stain moments vary by different amounts: each is divided by its standard deviation.
    stain_scale = values["stain"][len(training) :].std(0) + attacks.MIN_DISTANCE
    scaled = values | {"stain": values["stain"] / stain_scale}
    real = {
        name: RealPatches(space[value_rows], patients.to_numpy()[rows], is_member) for name, space in scaled.items()
    }
    in_first = attacks.halve_patients(real["stain"])
    halves = {
        name: tuple(prepare(real[name].values[~is_member & half]) for half in (in_first, ~in_first))
        for name in PATCH_SPACES
    }
    references = {name: prepare(values[name][: len(training)]) for name in PATCH_SPACES}
    return Sets(references, training, halves, real, rows, stain_scale)


class Proximity(NamedTuple):
    """How much unseen patients' patches look like training patches, by space of PATCH_SPACES.

    Attributes:
        limits: The score of `measure_proximity` that CLOSEST_FRACTION of them exceed.
        distances: Of each to the nearest training patch.
    """

    limits: dict[str, float]
    distances: dict[str, np.ndarray]


def fit_proximity(sets: Sets) -> Proximity:
    """Return how near unseen patients' patches are to training patches, relative to the other half of such patients."""
    limits, distances = {}, {}
    for name in PATCH_SPACES:
        real, side = sets.real[name], SPACES[name]
        in_first = attacks.halve_patients(real)
        scores, training_distances = [], []
        # Each half of the unseen patients is compared with the other one.
        for half, opposite_half in zip((in_first, ~in_first), reversed(sets.halves[name]), strict=True):
            values = real.values[~real.is_member & half]
            training_distances.append(nearest(values, sets.training[name], side).distances)
            unseen_distances = nearest(values, opposite_half, side).distances
            scores.append(attacks.log_ratio(training_distances[-1], unseen_distances))
        limits[name] = float(np.quantile(np.concatenate(scores), 1 - CLOSEST_FRACTION))
        distances[name] = np.concatenate(training_distances)
    return Proximity(limits, distances)


def measure_proximity(sets: Sets, synthetic: dict[str, np.ndarray]) -> pd.DataFrame:
    """Measure how near synthetic patches are to training patches.

    Returns:
        A row for each patch. By space of PATCH_SPACES: distance_<space> to the nearest training patch, row_<space>,
        that patch's row in the store, and score_<space>, the logarithm of the distance to the nearest unseen patch
        divided by it. Patches alternate between the two halves of the unseen patients.
    """
    columns = {}
    for name in PATCH_SPACES:
        side = SPACES[name]
        neighbors = nearest(synthetic[name], sets.training[name], side)
        unseen = np.empty(len(synthetic[name]))
        for first, half in enumerate(sets.halves[name]):
            unseen[first::2] = nearest(synthetic[name][first::2], half, side).distances
        columns |= {
            f"distance_{name}": neighbors.distances, f"row_{name}": sets.training_rows[neighbors.indices],
            f"score_{name}": attacks.log_ratio(neighbors.distances, unseen),
        }  # fmt: skip
    return pd.DataFrame(columns)


def is_too_near(measured: pd.DataFrame, limits: dict[str, float]) -> np.ndarray:
    """Return which patches of `measure_proximity` are removed: beyond the limit in any space; bool, (n,)."""
    return np.any([measured[f"score_{name}"] > limit for name, limit in limits.items()], 0)


def check_proximity(candidates: pd.DataFrame, proximity: Proximity) -> list[Check]:
    """Return how many candidates are too near to a training patch, and by space how near they are as a whole.

    The fraction that is too near is that of the class in which it is largest.

    Args:
        candidates: `label`, and the columns of `measure_proximity`, of all patches that the quality filter accepted.
    """
    is_near = pd.Series(is_too_near(candidates, proximity.limits))
    removed = float(is_near.groupby(candidates["label"].to_numpy()).mean().max())
    first = Check("removed_fraction", EITHER_SPACE, removed, limit=MAX_REMOVED, passed=removed <= MAX_REMOVED)
    return [first, *(_compare_with_unseen(name, candidates, proximity) for name in PATCH_SPACES)]


def attack(sets: Sets, synthetic: dict[str, np.ndarray]) -> tuple[list[Check], str]:
    """Attack a set of synthetic patches.

    Args:
        synthetic: The set by space, from `represent`.

    Returns:
        The checks, and the training patient that stands out most, for the owner of the data.
    """
    rng = np.random.default_rng(attacks.SEED)
    compared = rng.permutation(len(synthetic["pixels"]))[:MAX_COMPARED]
    checks: list[Check] = []
    exposed: list[tuple[float, str]] = []
    for name, side in SPACES.items():
        real, rows = sets.real[name], synthetic[name] / (sets.stain_scale if name == "stain" else 1)
        scores = attacks.score_membership(rows, real, side)
        if name in PATCH_SPACES:
            rate = attacks.true_positive_rate(scores, real)
            checks += [
                _two_sided("nearer_to_members", name, attacks.share_nearer_to_members(rows[compared], real, side)),
                _two_sided("membership_patches", name, attacks.roc_auc(scores, real)),
                Check("true_positive_rate", name, **rate, passed=rate["value"] <= rate["limit"]),
            ]
        by_patient = attacks.roc_auc(*attacks.average_by_patient(scores, real))
        linkage = attacks.find_most_exposed_patient(scores, real, len(SPACES))
        checks += [
            _two_sided("membership_patients", name, by_patient),
            Check("linkage", name, linkage.value, limit=linkage.limit, passed=linkage.value <= linkage.limit),
        ]
        exposed.append((linkage.value - linkage.limit, linkage.patient))
    return checks, max(exposed)[1]


def _two_sided(name: str, space: str, estimate: dict[str, float | None]) -> Check:
    """Check that a result, {value, low, high}, is near 0.5, which is chance. Below 0.5 an attacker inverts the score.

    A result beyond MAX_SHARE passes if its interval contains 0.5: with few patients any value occurs by chance.
    """
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if low is None:  # no interval: leakage cannot be excluded
        return Check(name, space, value, low, high, MAX_SHARE, passed=False)
    is_leak = abs(value - 0.5) > MAX_SHARE - 0.5 and not low <= 0.5 <= high
    return Check(name, space, value, low, high, MAX_SHARE, bool(high <= MAX_UPPER_END and not is_leak))


def _compare_with_unseen(name: str, candidates: pd.DataFrame, proximity: Proximity) -> Check:
    """Return how often a synthetic patch is nearer to training patches than an unseen patient's patch is.

    It is for information: synthetic patches that are smoother than real ones are nearer to all real patches.
    """
    from scipy.stats import mannwhitneyu

    synthetic, unseen = candidates[f"distance_{name}"], proximity.distances[name]
    larger = mannwhitneyu(unseen, synthetic).statistic / (len(synthetic) * len(unseen))
    return Check("nearer_than_unseen", name, float(larger))


def attack_discriminators(root: Path, store: Store, sets: Sets, num_classes: int) -> list[Check]:
    """Return what the scores of the GAN's discriminators tell of training patients (LOGAN, Hayes et al. 2019).

    The discriminators are not released; these results say what leaks if they were.
    """
    table = pd.read_csv(root / "features" / "properties.csv", dtype={"id": str}, keep_default_na=False)
    scores = {"discriminator": table["score"].to_numpy()[sets.rows]}
    path = root / "gan" / "projected_discriminator.keras"
    if path.exists() and has_weights("lite0"):
        images = store.images.select(sets.rows)
        scores["projected_discriminator"] = _score_by_projected_discriminator(
            weights.load_model(path), images, num_classes
        )
    real, checks = sets.real["stain"], []
    for name, values in scores.items():
        by_patient = attacks.roc_auc(*attacks.average_by_patient(values, real))
        checks.append(Check("membership_patches", name, **attacks.roc_auc(values, real)))
        checks.append(Check("membership_patients", name, **by_patient))
    return checks


def _score_by_projected_discriminator(network: keras.Model, images: ImageRows, num_classes: int) -> np.ndarray:
    """Return a membership score of each patch, (n,), as a discriminator may have memorized its training patches.

    It is the projected discriminator's mean logit over its feature maps, their positions and all labels.
    """
    from bcgan.models.projected_discriminator import imagenet_features

    extract = imagenet_features(images.shape[1])

    def score(patches: np.ndarray) -> np.ndarray:
        """Return the scores of a batch of patches, (n,)."""
        maps, total = extract(batches.to_float(patches), training=False), np.zeros(len(patches))
        for label in range(num_classes):
            logits = network([*maps, keras.ops.full((len(patches),), label, "int32")], training=False)
            total += np.mean([np.asarray(keras.ops.mean(values, (1, 2, 3))) for values in logits], 0)
        return total / num_classes

    return batches.map_in_batches(score, images)


def as_json(checks: list[Check]) -> list[dict[str, Any]]:
    """Return the checks as dicts with the fields of `Check`."""
    return [check._asdict() for check in checks]


def describe_failures(checks: list[Check]) -> list[str]:
    """Return a sentence for each failed check: what, its value, its limit, and what would help."""
    sentences = []
    for check in checks:
        if check.passed is False:
            value = "not defined" if check.value is None else f"{check.value:.3f}"
            interval = "" if check.high is None else f" ({check.low:.3f} to {check.high:.3f})"
            sentences.append(
                f"{TITLES[check.name]}, by {check.space.replace('_', ' ')}: {value}{interval}, at most "
                f"{check.limit:.3f}. {REMEDIES[check.name]}"
            )
    return sentences
