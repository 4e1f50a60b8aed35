"""`bcgan probe`: how well features that somebody else computed tell the classes apart, by patients.

The features of a pathology encoder are measured as the report measures the discriminator's: by a logistic regression,
and by the nearest neighbors.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan.classes import CLASSES
from bcgan.data.labels import ClassNames
from bcgan.errors import InputError
from bcgan.evaluate import intervals, metrics
from bcgan.evaluate.paired import BootstrapSettings
from bcgan.evaluate.probes import fit_and_score_probe, resample_patients
from bcgan.preprocess.store import Store

ARRAYS = ("features", "ids", "labels", "patients", "coords")
TABLE_COLUMNS = ("slide", "x", "y", "label", "patient")
NUM_NEIGHBORS = 20
NUM_FOLDS = 5
MIN_PATIENTS = NUM_FOLDS
ROLES = ("train", "validation", "test")


class Embeddings(NamedTuple):
    """Features of patches, and what is known of each patch; (n,) or `None` if it is not known."""

    features: np.ndarray  # float32, (n, d)
    ids: np.ndarray | None
    labels: np.ndarray | None  # integers
    patients: np.ndarray | None
    roles: np.ndarray | None  # train, validation or test


def read(path: Path, table: pd.DataFrame | None = None) -> Embeddings:
    """Read features from a .npz or .h5 file.

    Args:
        path: With the array `features`, (n, d), or (1, n, d) as TRIDENT writes it; and `ids`, or `labels` and
            `patients`, or `coords`, (n, 2).
        table: Slides, places, labels and patients for a file with `coords`, which is named after its slide; from
            `read_table`. Defaults to `None`.

    Raises:
        InputError: If an array is missing or has another length, a number is not finite, or a place is not in `table`.
    """
    arrays = _read_arrays(path)
    features = np.asarray(arrays["features"], np.float32)
    features = features[0] if features.ndim == 3 and len(features) == 1 else features
    if features.ndim != 2 or not len(features):
        raise InputError(f"{path}: features has the shape {features.shape}. It has to be (patches, dimensions).")
    if (bad := ~np.isfinite(features).all(1)).any():
        raise InputError(
            f"{path}: features of {bad.sum()} patches are not finite; the first is number {int(bad.argmax())}. Compute "
            "them again."
        )
    for name in ARRAYS[1:]:
        if name in arrays and len(arrays[name]) != len(features):
            raise InputError(f"{path}: {name} has {len(arrays[name])} rows and features {len(features)}.")
    ids, labels, patients = (_as_text(arrays[name]) if name in arrays else None for name in ARRAYS[1:4])
    if labels is not None:
        labels = _as_labels(labels, path)
    if table is not None:
        if "coords" not in arrays:
            raise InputError(f"{path} has no coords, by which --labels finds a patch. Leave --labels out.")
        labels, patients = _look_up(path, np.asarray(arrays["coords"]), table)
    return Embeddings(features, ids, labels, patients, None)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read those of ARRAYS that a file has."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in ARRAYS if name in saved.files}
        elif path.suffix in (".h5", ".hdf5"):
            import h5py

            with h5py.File(path, "r") as file:
                arrays = {name: file[name][()] for name in ARRAYS if name in file}
        else:
            raise InputError(f"{path} is neither .npz nor .h5. Write the features as one of these.")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Write it again.") from error
    if "features" not in arrays:
        raise InputError(f"{path} has no array `features`. Name the features so.")
    return arrays


def _as_text(values: np.ndarray) -> np.ndarray:
    """Return values as text; HDF5 has bytes."""
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in np.asarray(values)])


def _as_labels(names: np.ndarray, source: Path | str) -> np.ndarray:
    """Return the labels of names of classes, or of labels.

    Raises:
        InputError: If one is neither of two classes nor a label.
    """
    if all(name.isdigit() for name in names):
        return names.astype(int)
    known = ClassNames(tuple((name, ()) for name in CLASSES))
    labels = {name: known.label(name) for name in set(names)}
    if None in labels.values():
        name = next(name for name in labels if labels[name] is None)
        raise InputError(f"{source}: label {str(name)!r} is neither benign nor malignant, nor a number from 0 on.")
    return np.array([labels[name] for name in names])


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file with the columns slide, x, y, label and patient.

    Raises:
        InputError: If a column is missing or a value is, or two rows are of one place.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in TABLE_COLUMNS if name not in table]:
        raise InputError(f"{path} has no column {missing[0]}. It needs {', '.join(TABLE_COLUMNS)}.")
    if (empty := (table[list(TABLE_COLUMNS)] == "").any(axis=1)).any():
        raise InputError(f"{path}: row {int(empty.argmax()) + 2} has an empty value. Fill it, or remove the row.")
    table["label"] = _as_labels(table["label"].to_numpy(), path)
    try:
        table[["x", "y"]] = table[["x", "y"]].astype(float).astype(int)
    except ValueError as error:
        raise InputError(f"{path}: x or y is no number ({error}). Give the pixels of the upper left corner.") from error
    if (repeated := table.duplicated(["slide", "x", "y"])).any():
        raise InputError(f"{path}: row {int(repeated.argmax()) + 2} is of the same place as one before. Keep one.")
    return table


def _look_up(path: Path, coords: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and patients of the places of a slide's patches.

    Raises:
        InputError: If a place is not in the table.
    """
    places = pd.DataFrame({"slide": path.stem, "x": coords[:, 0].astype(int), "y": coords[:, 1].astype(int)})
    found = places.merge(table, "left", ["slide", "x", "y"])
    if (missing := found["patient"].isna()).any():
        first = found[missing].iloc[0]
        raise InputError(
            f"{path}: {missing.sum()} of {len(found)} places are not in the table; the first is {path.stem}, "
            f"{first['x']}, {first['y']}. Add them, with the slide named as the file."
        )
    return found["label"].to_numpy(int), found["patient"].to_numpy(str)


def join(parts: list[Embeddings], sources: list[Path]) -> Embeddings:
    """Put the features of several files together.

    Raises:
        InputError: If they have different dimensions, or one knows less of its patches than another.
    """
    first = parts[0]
    for part, source in zip(parts, sources, strict=True):
        if part.features.shape[1] != first.features.shape[1]:
            raise InputError(
                f"{source} has {part.features.shape[1]} dimensions and {sources[0]} {first.features.shape[1]}. Give "
                "files of one encoder."
            )
        if [field is None for field in part] != [field is None for field in first]:
            raise InputError(f"{source} has other arrays than {sources[0]}. Give files of one kind.")
    columns = zip(*parts, strict=True)
    return Embeddings(*(None if column[0] is None else np.concatenate(column) for column in columns))


def match(embeddings: Embeddings, store: Store, run: str) -> Embeddings:
    """Give features the labels, patients and roles of a run's patches, by id.

    Patches of the run without features are left out; of features, those of no role of ROLES.

    Raises:
        InputError: If there are no ids, one occurs twice, or a role has no patches.
    """
    if embeddings.ids is None:
        raise InputError(f"The file has no `ids`, by which patches of {run} are found. Add them, or leave --run out.")
    unique, counts = np.unique(embeddings.ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"The id {unique[counts.argmax()]} occurs {counts.max()} times. Keep one of them.")
    index = store.index.set_index("id")[["label", "patient", "role"]]
    found = index.reindex(embeddings.ids)
    is_used = found["role"].isin(ROLES).to_numpy()
    kept = found[is_used]
    for role in ROLES:
        if not (kept["role"] == role).any():
            raise InputError(
                f"None of {len(embeddings.ids)} ids is of a {role} patch of {run}, whose ids are such as "
                f"{store.index['id'][0]}. Take the ids from its preprocess/index.csv."
            )
    return Embeddings(
        embeddings.features[is_used], embeddings.ids[is_used], kept["label"].to_numpy(int),
        kept["patient"].to_numpy(str), kept["role"].to_numpy(str),
    )  # fmt: skip


def probe(embeddings: Embeddings, seeds: tuple[int, ...], settings: BootstrapSettings) -> dict[str, Any]:
    """Measure features by a logistic regression and by nearest neighbors.

    With roles, test patients are tested; training patients are resampled for each seed, as in the report. Without,
    every patient is tested once, in NUM_FOLDS folds of patients: the next fold selects the penalty.

    Returns:
        {dimensions, patches, patients, tested_patients, linear, neighbors}; the last two are estimates of metrics.

    Raises:
        InputError: If labels or patients are unknown, or there are too few of them.
    """
    labels, patients = embeddings.labels, embeddings.patients
    if labels is None or patients is None:
        missing = "labels" if labels is None else "patients"
        raise InputError(
            f"The features come without {missing}. Add the array `{missing}`, or say where to find them: --run for a "
            "run's patches, --labels for slides."
        )
    if len(np.unique(labels)) < 2:
        raise InputError(f"All {len(labels)} patches have the label {labels[0]}. Two classes or more are needed.")
    if set(np.unique(labels)) != set(range(len(np.unique(labels)))):
        raise InputError(f"Labels are {sorted(set(labels.tolist()))}. Number the classes from 0 on, without a gap.")
    if embeddings.roles is not None:
        scores, tested = _probe_roles(embeddings, seeds)
    else:
        scores, tested = _probe_folds(embeddings)
    results = {
        "dimensions": embeddings.features.shape[1], "patches": len(labels), "patients": len(np.unique(patients)),
        "tested_patients": len(np.unique(patients[tested])),
    }  # fmt: skip
    for name, by_seed in scores.items():
        predictions = intervals.SeedPredictions(by_seed, dict.fromkeys(by_seed, 0.5))
        estimates = intervals.metrics_with_intervals(
            labels[tested], predictions, patients[tested], settings.resamples, settings.confidence_level, settings.seed
        )
        results[name] = {metric: estimates[metric] for metric in ("roc_auc", "balanced_accuracy")}
    return results


def _probe_roles(embeddings: Embeddings, seeds: tuple[int, ...]) -> tuple[dict[str, dict[int, np.ndarray]], np.ndarray]:
    """Return the probabilities of test patches by probe and seed, and the rows of test patches."""
    features, labels = embeddings.features, embeddings.labels
    rows = {role: np.flatnonzero(embeddings.roles == role) for role in ROLES}
    linear = {}
    for seed in seeds:
        train = resample_patients(embeddings.patients, labels, rows["train"], seed)
        linear[seed] = fit_and_score_probe(features, labels, train, rows["validation"], rows["test"])
    neighbors = {0: _vote(features, labels, rows["train"], rows["test"])}
    return {"linear": linear, "neighbors": neighbors}, rows["test"]


def _probe_folds(embeddings: Embeddings) -> tuple[dict[str, dict[int, np.ndarray]], np.ndarray]:
    """Return the probabilities of all patches by probe, each from a fold of patients, and all rows."""
    features, labels, patients = embeddings.features, embeddings.labels, embeddings.patients
    names = np.unique(patients)
    if len(names) < MIN_PATIENTS:
        raise InputError(f"There are {len(names)} patients. {MIN_PATIENTS} or more are needed for folds of patients.")
    fold_of = dict(zip(np.random.default_rng(0).permutation(names), np.arange(len(names)) % NUM_FOLDS, strict=True))
    folds = np.array([fold_of[name] for name in patients])
    shape = (len(labels),) if labels.max() == 1 else (len(labels), labels.max() + 1)
    linear, neighbors = np.zeros(shape), np.zeros(shape)
    for fold in range(NUM_FOLDS):
        test, validation = (np.flatnonzero(folds == (fold + step) % NUM_FOLDS) for step in (0, 1))
        train = np.flatnonzero((folds != fold) & (folds != (fold + 1) % NUM_FOLDS))
        for rows, what in ((train, "training"), (validation, "validation")):
            if len(np.unique(labels[rows])) <= labels.max():
                raise InputError(
                    f"The {what} patients of a fold lack a class. Give patches of more patients of each class."
                )
        linear[test] = fit_and_score_probe(features, labels, train, validation, test)
        neighbors[test] = _vote(features, labels, train, test)
    return {"linear": {0: linear}, "neighbors": {0: neighbors}}, np.arange(len(labels))


def _vote(features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the shares of the classes among the nearest training patches by cosine, weighted by 1 / distance."""
    from sklearn.neighbors import KNeighborsClassifier

    count = min(NUM_NEIGHBORS, len(train))
    model = KNeighborsClassifier(count, weights="distance", metric="cosine").fit(features[train], labels[train])
    return metrics.second_or_all(model.predict_proba(features[test]))
