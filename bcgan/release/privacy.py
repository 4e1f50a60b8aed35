"""The privacy audit: what a set of synthetic patches gives away about the patients that the generator was trained on.

Training patients are members; validation and test patients, which the generator has not seen, are not. Patches are
compared by pixels, by features of a network that was trained on no patient, and by stain.

The audit is evidence, not a proof: an attack that is not in it may succeed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
import pandas as pd

from bcgan.classify import reference_cnn
from bcgan.data import batches
from bcgan.data.rows import ImageRows
from bcgan.errors import InputError
from bcgan.evaluate import intervals
from bcgan.models import weights
from bcgan.models.efficientnet_lite import has_weights, make_pooled_feature_fn
from bcgan.preprocess.stain import optical_density
from bcgan.preprocess.store import Store
from bcgan.release import attacks
from bcgan.release.attacks import Bootstrap, RealPatches

SIDE = 16  # pixels, to which patches are reduced where pixels are compared
SPACES = {"pixels": SIDE, "features": None, "stain": None}  # the side of rows that are images
PATCH_SPACES = ("pixels", "features")  # in which single patches are recognized; stain is a patient's
UNSEEN_ROLES = ("validation", "test")
MAX_PATIENT_PATCHES = 100  # of each patient in the attacks, so that no patient is most of them
CLOSEST_FRACTION = 0.01  # of unseen patients' patches: their largest distance to a training patch is the limit
MAX_COMPARED = 2000  # synthetic patches whose nearest real patient is found, patient by patient
# What each check may reach at most; that of `linkage` depends on the number of patients. A result beyond its limit
# fails if its interval lies above chance: patients differ, so that a few give any value.
LIMITS = {
    "removed_fraction": 0.05,
    "nearer_to_members": 0.55,
    "membership_patches": 0.55,
    "true_positive_rate": 0.05,
    "membership_patients": 0.55,
}
CHANCE = {
    "nearer_to_members": 0.5,
    "membership_patches": 0.5,
    "true_positive_rate": attacks.FALSE_POSITIVE_RATE,
    "membership_patients": 0.5,
}
MAX_UPPER_END = 0.75  # of an interval around 0.5: beyond it there are too few patients to exclude a leak
TITLES = {
    "removed_fraction": "Candidates too near to a training patch, and removed",
    "nearer_than_unseen": "Candidates nearer to training patches than unseen patches are",
    "nearer_to_members": "Patches nearer to a training patch than to an unseen one",
    "membership_patches": "Training patches recognised (ROC AUC)",
    "true_positive_rate": "Training patches recognised, at 1 % false alarms",
    "membership_patients": "Training patients recognised (ROC AUC)",
    "linkage": "Most exposed training patient (standard deviations)",
    "loss_of_roc_auc": "Loss of ROC AUC by training on the release",
}
REMEDIES = {
    "removed_fraction": "The generator comes close to training patches too often. Train it on more patients, with "
    "gan.diff_augment, or for fewer steps.",
    "nearer_to_members": "Train the generator on more patients, with gan.diff_augment, or for fewer steps.",
    "membership_patches": "Train the generator on more patients, with gan.diff_augment, or for fewer steps.",
    "true_positive_rate": "Some training patches can be recognised. Train the generator on more patients, with "
    "gan.diff_augment, or for fewer steps.",
    "membership_patients": "Train the generator on more patients, with gan.diff_augment, or for fewer steps. If the "
    "interval is wide, hold out more patients.",
    "loss_of_roc_auc": "Networks learn less from these patches than from real ones. Train the GAN for longer or on "
    "more patients, or release more patches.",
    "linkage": "One training patient stands out; runs/<experiment>/release/audit.json names it. Train the generator "
    "without that patient, or on more patients.",
}


class Check(NamedTuple):
    """One result of the audit.

    Attributes:
        name: A key of LIMITS, `linkage`, or the name of a result that is for information.
        space: A key of SPACES, or the network whose score is attacked.
        value, low, high: The result and its interval over patients, `None` where there is none.
        limit: Largest value that passes; `None` for information.
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
        training: Every training patch by space, float32, (n, d).
        unseen: Every patch of UNSEEN_ROLES by space.
        real: The patches of the attacks by space, at most MAX_PATIENT_PATCHES of a patient.
        rows: Rows in the store of those patches.
        training_rows: Rows in the store of `training`.
    """

    training: dict[str, np.ndarray]
    unseen: dict[str, np.ndarray]
    real: dict[str, RealPatches]
    rows: np.ndarray
    training_rows: np.ndarray


def check_patients(store: Store) -> None:
    """Raise InputError if the audit is impossible: patients are unknown, or too few were held out."""
    index = store.index
    if (index["patient"] == index["id"]).all():
        raise InputError("The data name no patient, and the audit is by patients. Use data that name them.")
    for role_names, kind in ((("train",), "was trained on"), (UNSEEN_ROLES, "has not seen")):
        count = index["patient"][index["role"].isin(role_names)].nunique()
        if count < intervals.MIN_PATIENTS:
            raise InputError(
                f"There are {count} patients that the generator {kind} ({', '.join(role_names)}). The audit compares "
                f"patients that it was trained on with others, and needs {intervals.MIN_PATIENTS} of each."
            )


def make_feature_fn(root: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Return the function from uint8 patches to features, (n, d), and the network's name.

    It is EfficientNet-Lite2 as trained on ImageNet. Where that is not installed, it is the run's reference CNN, which
    was trained on the training patients.
    """
    if has_weights("lite2"):
        return make_pooled_feature_fn("lite2"), "efficientnet_lite2"
    network = weights.load_model(root / "features" / "reference_cnn.keras")
    return reference_cnn.make_feature_fn(network), reference_cnn.NETWORK


def represent(images: np.ndarray | ImageRows, extract: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """Return patches in every space, float32, (n, d).

    Args:
        images: uint8, (n, size, size, 3).
        extract: From `make_feature_fn`.
    """
    features = extract(images).astype(np.float32)
    pixels = batches.map_in_batches(_reduce, images, 256)
    return {"pixels": pixels, "features": features, "stain": batches.map_in_batches(_stain, images, 256)}


def _reduce(images: np.ndarray) -> np.ndarray:
    """Return patches reduced to SIDE pixels, float32 in [0, 1], (n, SIDE * SIDE * 3)."""
    small = [cv2.resize(patch, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for patch in images]
    return np.stack(small).reshape(len(images), -1).astype(np.float32) / 255


def _stain(images: np.ndarray) -> np.ndarray:
    """Return the mean and the standard deviation of the optical density of each channel, float32, (n, 6)."""
    density = optical_density(images).reshape(len(images), -1, 3)
    return np.concatenate([density.mean(1), density.std(1)], 1).astype(np.float32)


def select_rows(store: Store, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows of the store: all of training patients, all of unseen ones, and those that the attacks use."""
    index = store.index
    training, unseen = (np.flatnonzero(index["role"].isin(names)) for names in (("train",), UNSEEN_ROLES))
    order = np.random.default_rng(seed).permutation(np.concatenate([training, unseen]))
    rank = index.iloc[order].groupby("patient", sort=False).cumcount().to_numpy()
    return training, unseen, np.sort(order[rank < MAX_PATIENT_PATCHES])


def make_sets(store: Store, values: dict[str, np.ndarray], seed: int) -> Sets:
    """Collect the real patches of the audit.

    Args:
        values: From `represent`, of training patches and then of unseen ones, as `select_rows` orders them.
    """
    training, unseen, rows = select_rows(store, seed)
    position = {row: index for index, row in enumerate(np.concatenate([training, unseen]))}
    selected = np.array([position[row] for row in rows])
    patients, roles = (store.index[column].to_numpy()[rows] for column in ("patient", "role"))
    real = {name: RealPatches(space[selected], patients, roles == "train") for name, space in values.items()}
    first = {name: space[: len(training)] for name, space in values.items()}
    rest = {name: space[len(training) :] for name, space in values.items()}
    return Sets(first, rest, real, rows, training)


class Proximity(NamedTuple):
    """How near a synthetic patch may be to a training patch."""

    limits: dict[str, float]  # by space of PATCH_SPACES
    unseen_distances: dict[str, np.ndarray]  # of unseen patients' patches to the nearest training patch


def fit_proximity(sets: Sets) -> Proximity:
    """Return the limits: the distance of the nearest CLOSEST_FRACTION of unseen patients' patches."""
    distances = {
        name: attacks.nearest(sets.unseen[name], sets.training[name], SPACES[name]).distances for name in PATCH_SPACES
    }
    limits = {name: float(np.quantile(values, CLOSEST_FRACTION)) for name, values in distances.items()}
    return Proximity(limits, distances)


def measure_proximity(sets: Sets, synthetic: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return each synthetic patch's distance to the nearest training patch, and that patch's row in the store.

    Columns: distance_<space> and row_<space> for each of PATCH_SPACES.
    """
    columns = {}
    for name in PATCH_SPACES:
        found = attacks.nearest(synthetic[name], sets.training[name], SPACES[name])
        columns |= {f"distance_{name}": found.distances, f"row_{name}": sets.training_rows[found.indices]}
    return pd.DataFrame(columns)


def is_too_near(measured: pd.DataFrame, limits: dict[str, float]) -> np.ndarray:
    """Return which patches of `measure_proximity` are removed: nearer than a limit in any space; bool, (n,)."""
    return np.any([measured[f"distance_{name}"] <= limit for name, limit in limits.items()], 0)


def check_proximity(candidates: pd.DataFrame, proximity: Proximity) -> list[Check]:
    """Return, by space, how many candidates are too near to a training patch, and how near they are as a whole.

    The fraction that is too near is that of the class in which it is largest.

    Args:
        candidates: From `measure_proximity`, of all patches that the quality filter accepted.
    """
    checks = []
    for name in PATCH_SPACES:
        is_near = candidates[f"distance_{name}"] <= proximity.limits[name]
        removed = float(is_near.groupby(candidates["label"]).mean().max())
        checks += [
            _check("removed_fraction", name, {"value": removed}),
            _compare_with_unseen(name, candidates, proximity),
        ]
    return checks


def attack(sets: Sets, synthetic: dict[str, np.ndarray], bootstrap: Bootstrap) -> tuple[list[Check], str | None]:
    """Attack a set of synthetic patches.

    Args:
        synthetic: The set by space, from `represent`.

    Returns:
        The checks, and the training patient that stands out most, for the owner of the data.
    """
    rng = np.random.default_rng(bootstrap.seed)
    compared = rng.permutation(len(synthetic["pixels"]))[:MAX_COMPARED]
    checks: list[Check] = []
    exposed: tuple[float, str | None] = (-np.inf, None)
    for name, side in SPACES.items():
        real, rows = sets.real[name], synthetic[name]
        if name == "stain":  # its numbers vary by different amounts
            scale = real.values[~real.is_member].std(0) + attacks.MIN_DISTANCE
            real, rows = real._replace(values=real.values / scale), rows / scale
        distances = attacks.nearest(real.values, rows, side).distances
        scores = attacks.score_membership(distances, real, side, bootstrap.seed)
        if name in PATCH_SPACES:
            checks += [
                _check(
                    "nearer_to_members", name, attacks.share_nearer_to_members(rows[compared], real, side, bootstrap)
                ),
                _check("membership_patches", name, attacks.roc_auc(scores, real, bootstrap)),
                _check("true_positive_rate", name, attacks.true_positive_rate(scores, real, bootstrap)),
            ]
        by_patient = attacks.roc_auc(*attacks.average_by_patient(scores, real), bootstrap)
        linkage = attacks.find_most_exposed_patient(scores, real)
        passed = linkage.value is not None and linkage.value <= linkage.limit
        checks += [
            _check("membership_patients", name, by_patient),
            Check("linkage", name, linkage.value, limit=linkage.limit, passed=passed),
        ]
        if linkage.value is not None:
            exposed = max(exposed, (linkage.value - linkage.limit, linkage.patient))
    return checks, exposed[1]


def _check(name: str, space: str, estimate: dict[str, float | None]) -> Check:
    """Hold a result against its limit."""
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    if name not in CHANCE:
        passed = value is not None and value <= LIMITS[name]
    elif low is None:  # nothing is known
        passed = False
    else:
        is_leak = value > LIMITS[name] and low > CHANCE[name]
        passed = not is_leak and (CHANCE[name] < 0.5 or high <= MAX_UPPER_END)
    return Check(name, space, value, low, high, LIMITS[name], bool(passed))


def _compare_with_unseen(name: str, candidates: pd.DataFrame, proximity: Proximity) -> Check:
    """Return how often a synthetic patch is nearer to training patches than an unseen patient's patch is.

    It is for information: synthetic patches that are smoother than real ones are nearer to all real patches.
    """
    from scipy.stats import mannwhitneyu

    synthetic, unseen = candidates[f"distance_{name}"], proximity.unseen_distances[name]
    larger = mannwhitneyu(unseen, synthetic).statistic / (len(synthetic) * len(unseen))
    return Check("nearer_than_unseen", name, float(larger))


def attack_discriminators(root: Path, store: Store, sets: Sets, num_classes: int, bootstrap: Bootstrap) -> list[Check]:
    """Return what the scores of the GAN's discriminators tell of training patients (LOGAN, Hayes et al. 2019).

    The discriminators are not released; these results say what leaks if they were.
    """
    table = pd.read_csv(root / "features" / "properties.csv", dtype={"id": str}, keep_default_na=False)
    scores = {"discriminator": table["score"].to_numpy()[sets.rows]}
    path = root / "gan" / "projected_discriminator.keras"
    if path.exists() and has_weights("lite0"):
        images = store.images.select(sets.rows)
        scores["projected_discriminator"] = _projected_scores(weights.load_model(path), images, num_classes)
    real = sets.real["stain"]
    checks = []
    for name, values in scores.items():
        checks.append(Check("membership_patches", name, **attacks.roc_auc(values, real, bootstrap)))
        checks.append(
            Check("membership_patients", name, **attacks.roc_auc(*attacks.average_by_patient(values, real), bootstrap))
        )
    return checks


def _projected_scores(network: keras.Model, images: ImageRows, num_classes: int) -> np.ndarray:
    """Return the projected discriminator's mean logit over maps, places and labels, (n,)."""
    from bcgan.models.projected_discriminator import imagenet_features

    extract = imagenet_features(images.shape[1])

    def score(patches: np.ndarray) -> np.ndarray:
        maps = extract(batches.to_float(patches), training=False)
        total = np.zeros(len(patches))
        for label in range(num_classes):
            logits = network([*maps, np.full(len(patches), label, np.int32)], training=False)
            total += np.mean([np.asarray(keras.ops.mean(values, (1, 2, 3))) for values in logits], 0)
        return total / num_classes

    return batches.map_in_batches(score, images)


def as_json(checks: list[Check]) -> list[dict[str, Any]]:
    """Return the checks as JSON."""
    return [check._asdict() for check in checks]


def describe_failures(checks: list[Check]) -> list[str]:
    """Return a sentence for each failed check: what, its value, its limit, and what would help."""
    sentences = []
    for check in checks:
        if check.passed is False:
            value = "not defined" if check.value is None else f"{check.value:.3f}"
            limit = "not defined" if check.limit is None else f"{check.limit:.3f}"
            interval = "" if check.high is None else f" ({check.low:.3f} to {check.high:.3f})"
            sentences.append(
                f"{TITLES[check.name]}, by {check.space}: {value}{interval}, at most {limit}. {REMEDIES[check.name]}"
            )
    return sentences
