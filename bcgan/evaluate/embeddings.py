"""Read features that somebody else computed, with labels and patients, for `bcgan probe`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bcgan.data import labels as label_table
from bcgan.data.labels import WHOLE_NUMBER, ClassNames
from bcgan.data.patients import check_patient, normalize_patient
from bcgan.data.records import UNKNOWN
from bcgan.errors import InputError
from bcgan.evaluate.probes import ROLES, subsample
from bcgan.preprocess.store import Store
from bcgan.progress import log
from bcgan.slides.files import strip_suffixes

ARRAYS = ("features", "ids", "labels", "patients", "coords")
MAX_LABEL = 1000  # more classes than that are a mistake
Places = dict[tuple[str, int, int], label_table.Row]  # rows of a table by slide, x and y


class Embeddings(NamedTuple):
    """Features of patches, and what is known of each patch; (n,) or `None` if it is not known."""

    features: np.ndarray  # float64, (n, d)
    ids: np.ndarray | None
    labels: np.ndarray | None  # integers
    patients: np.ndarray | None
    roles: np.ndarray | None  # train, validation or test


def read(path: Path, places: Places | None = None) -> Embeddings:
    """Read features from a .npz or .h5 file.

    Args:
        path: With the array `features`, (n, d), or (1, n, d) as TRIDENT writes it; and `ids`, or `labels` and
            `patients`, or `coords`, (n, 2).
        places: Labels and patients for a file with `coords`, which is named after its slide; from `read_places`.
            Defaults to `None`.

    Raises:
        InputError: If an array is missing or has another shape, a number is not finite, or a place is not in `places`.
    """
    arrays = _read_arrays(path)
    features = _as_rows(arrays["features"], path, "features")
    if not np.issubdtype(features.dtype, np.number) or np.iscomplexobj(features) or not features.size:
        raise InputError(f"{path}: features are {features.dtype} of shape {features.shape}. Numbers (n, d) are needed.")
    features = features.astype(np.float64)
    if (bad := ~np.isfinite(features).all(1)).any():
        raise InputError(
            f"{path}: features of {bad.sum()} patches are not finite; the first is number {int(bad.argmax())}. Compute "
            "them again."
        )
    columns = {name: _as_column(arrays[name], path, name, len(features)) for name in ARRAYS[1:4] if name in arrays}
    labels = _as_labels(columns["labels"], path) if "labels" in columns else None
    patients = _as_patients(columns["patients"], path) if "patients" in columns else None
    ids = columns.get("ids")
    if places is not None:
        table_labels, table_patients = _look_up_places(path, arrays.get("coords"), len(features), places)
        _check_same(labels, table_labels, path, "labels")
        _check_same(patients, table_patients, path, "patients")
        labels, patients = table_labels, table_patients
    return Embeddings(features, ids, labels, patients, None)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return {name: array} for those of ARRAYS that a .npz or .h5 file has; features are required."""
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".h5", ".hdf5"):
        raise InputError(f"{path} is neither .npz nor .h5. Write the features as one of these.")
    arrays: dict[str, np.ndarray] = {}
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in ARRAYS if name in saved.files}
        else:
            import h5py

            with h5py.File(path, "r") as file:
                arrays = {name: np.asarray(file[name][()]) for name in ARRAYS if name in file}
    except Exception as error:  # a file that is no such file ends in whatever its reader raises
        remedy = f"Write it again as {suffix}; an array of objects as text: ids.astype(str)."
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}). {remedy}") from error
    if "features" not in arrays:
        raise InputError(f"{path} has no array `features`. Name the features so.")
    return arrays


def _as_rows(values: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Return an array as (n, d); one that is (1, n, d), as TRIDENT writes it, loses its first dimension."""
    rows = values[0] if values.ndim == 3 and len(values) == 1 else values
    if rows.ndim != 2:
        raise InputError(f"{path}: {name} has the shape {values.shape}. A row for each patch is needed: (n, d).")
    return rows


def _as_column(values: np.ndarray, path: Path, name: str, count: int) -> np.ndarray:
    """Return the values of `count` patches as an array of text, (count,).

    Text of HDF5 is decoded from bytes. Whole numbers written as floats, such as 8863.0, become 8863, except in ids.
    """
    if values.shape != (count,):
        raise InputError(f"{path}: {name} has the shape {values.shape}, and there are {count} features. Give one each.")
    if values.dtype == bool:
        values = values.astype(int)
    try:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {name} has text that is not UTF-8. Write it as UTF-8.") from error
    if name != "ids" and all(WHOLE_NUMBER.fullmatch(text) for text in texts):  # 8863.0, as floats are written
        texts = [WHOLE_NUMBER.sub(r"\1", text) for text in texts]
    return np.array(texts)


def _as_patients(names: np.ndarray, path: Path) -> np.ndarray:
    """Return patients' names, text, (n,), normalized as in all other tables of bcgan.

    Raises:
        InputError: If a name is that of no patient.
    """
    patients = np.array([normalize_patient(name) for name in names])
    for number in np.sort(np.unique(patients, return_index=True)[1]):
        check_patient(str(patients[number]), f"{path}: the patient of patch {number}, counted from 0,")
    return patients


def _as_labels(names: np.ndarray, path: Path) -> np.ndarray:
    """Return the labels, integers, (n,), of texts that are all numbers, or all names of the two classes.

    Raises:
        InputError: If a text is neither.
    """
    if all(name.isascii() and name.isdigit() and int(name) <= MAX_LABEL for name in names):
        return names.astype(int)
    known = ClassNames(())
    labels = {name: known.label(name) for name in set(names)}
    if None in labels.values():
        name = next(name for name in sorted(labels) if labels[name] is None)
        raise InputError(
            f"{path}: label {str(name)!r} is neither benign nor malignant, nor a number. Number the classes from 0 on."
        )
    return np.array([labels[name] for name in names])


def read_places(path: Path) -> Places:
    """Read a table of labels with the columns image (the slide), label, patient, x and y.

    Raises:
        InputError: If a row has no place, or two rows are of one place.
    """
    places: Places = {}
    names = ClassNames(())
    for row in label_table.read_labels(path, names):
        place = (strip_suffixes(Path(row.image).name), row.x, row.y)
        if UNKNOWN in place:
            raise InputError(f"{path}, row {row.number}: no x or y. Give the corner of the patch, as in its file.")
        if place in places:
            raise InputError(
                f"{path}: rows {places[place].number} and {row.number} are of the same patch, {row.image}. Keep one."
            )
        places[place] = row
    names.log_numbers(str(path))
    return places


def _look_up_places(path: Path, coords: np.ndarray | None, count: int, places: Places) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and the patients, (count,) each, of a slide's patches, found by their coordinates.

    Args:
        path: The file of features; its name without the suffix is the slide.
        coords: (count, 2). x and y of each patch, in the pixels of the table. `None` if the file has none.

    Raises:
        InputError: If there are no coordinates, one patch occurs twice, or one is not in the table.
    """
    if coords is None:
        raise InputError(f"{path} has no coords, by which --labels finds a patch. Leave --labels out.")
    corners = _as_rows(coords, path, "coords")
    if corners.shape != (count, 2) or not (np.asarray(corners) == np.rint(corners)).all():
        raise InputError(f"{path}: coords has the shape {coords.shape}, and {count} whole numbers x, y are needed.")
    slide = path.stem
    keys = [(slide, int(x), int(y)) for x, y in corners]
    if len(set(keys)) < len(keys):
        raise InputError(f"{path}: coords has a place twice. Keep one patch of each.")
    if missing := [key for key in keys if key not in places]:
        slides = sorted({key[0] for key in places})
        listed = ", ".join(slides[:3]) + (" ..." if len(slides) > 3 else "")
        raise InputError(
            f"{path}: {len(missing)} of {count} places are not in the table; the first is "
            f"{', '.join(map(str, missing[0]))}. The table's slides are {listed}."
        )
    rows = [places[key] for key in keys]
    return np.array([row.label for row in rows]), np.array([row.patient for row in rows])


def _check_same(from_file: np.ndarray | None, reference: np.ndarray, source: Path | str, name: str) -> None:
    """Raise InputError if the labels or patients in a file differ from those of the run or the table of labels.

    Args:
        from_file: (n,). `None` if the file has none.
        reference: (n,). Those of the same patches in the run or the table.
        source, name: The file, and "labels" or "patients", for the error.
    """
    if from_file is not None and (differs := from_file != reference).any():
        number = int(differs.argmax())
        raise InputError(
            f"{source}: {name} of {differs.sum()} patches differ from those of --run or --labels. The first is patch "
            f"{number}, counted from 0: {from_file[number]} here and {reference[number]} there. Correct one of them."
        )


def join(parts: list[Embeddings], sources: list[Path]) -> Embeddings:
    """Concatenate the features of several files, such as those of one slide each.

    Args:
        parts: What `read` returns for each file.
        sources: Paths of the files, in the same order.

    Raises:
        InputError: If a file is given twice, two slides have one name, or files do not belong together.
    """
    first, names = parts[0], [source.stem for source in sources]
    if len({source.resolve() for source in sources}) < len(sources):
        raise InputError(f"{max(sources, key=sources.count)} is given twice. Give every file once.")
    if first.ids is None and len(sources) > 1 and len(set(names)) < len(names):
        raise InputError(f"Two files are called {max(names, key=names.count)}. Rename one: slides are told by name.")
    for part, source in zip(parts, sources, strict=True):
        if part.features.shape[1] != first.features.shape[1]:
            raise InputError(
                f"{source} has {part.features.shape[1]} dimensions and {sources[0]} {first.features.shape[1]}. Give "
                "files of one encoder."
            )
        if [field is None for field in part] != [field is None for field in first]:
            raise InputError(f"{source} has other arrays than {sources[0]}. Give files of one kind.")
    arrays_by_field = zip(*parts, strict=True)
    return Embeddings(*(None if arrays[0] is None else np.concatenate(arrays) for arrays in arrays_by_field))


def match(embeddings: Embeddings, store: Store, run: str, seed: int) -> Embeddings:
    """Give features the labels, patients and roles of a run's patches, by id.

    They are those patches of ROLES that the report's probes use. A warning says how many have no features.

    Raises:
        InputError: If there are no ids, one occurs twice, labels contradict the run's, or a role has no patches.
    """
    if embeddings.ids is None:
        raise InputError(f"The files have no `ids`, by which patches of {run} are found. Add them, or leave --run out.")
    unique, counts = np.unique(embeddings.ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"The id {unique[counts.argmax()]} occurs {counts.max()} times. Keep one of them.")
    index, position = store.index, {name: number for number, name in enumerate(embeddings.ids)}
    in_run = np.isin(embeddings.ids, index["id"].to_numpy(str))
    if not in_run.all():
        log.warning("probe: %d of %d ids are not of %s, and are left out", (~in_run).sum(), len(in_run), run)
    rows, positions = [], []
    for role in ROLES:
        role_rows = np.sort(subsample(store.role_indices(role), seed))
        with_features = np.array([row for row in role_rows if index["id"].iat[row] in position], int)
        if not len(with_features):
            raise InputError(
                f"None of {len(in_run)} ids is of a {role} patch of {run}, whose ids are such as {index['id'].iat[0]}. "
                "Take the ids from its preprocess/index.csv."
            )
        if len(with_features) < len(role_rows):
            log.warning(
                "probe: %d of %d %s patches have no features: the result is not comparable with the report's",
                len(role_rows) - len(with_features), len(role_rows), role,
            )  # fmt: skip
        rows.append(with_features)
        positions += [position[index["id"].iat[row]] for row in with_features]
    matched_rows = index.iloc[np.concatenate(rows)]
    labels, patients, roles = (matched_rows[name].to_numpy() for name in ("label", "patient", "role"))
    if embeddings.labels is not None:
        _check_same(embeddings.labels[positions], labels, "The files", "labels")
    if embeddings.patients is not None:
        _check_same(embeddings.patients[positions], patients.astype(str), "The files", "patients")
    return Embeddings(
        embeddings.features[positions], embeddings.ids[positions], labels, patients.astype(str), roles.astype(str)
    )
