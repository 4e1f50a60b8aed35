"""`bcgan assess`: measure a classifier on labeled images that it was not trained on, with patient-level intervals."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.data.idc.scan import OFFICIAL_LISTS
from bcgan.data.records import UNKNOWN, Record
from bcgan.data.slide_names import drop_class_folders, name_slide
from bcgan.data.splits import read_lists
from bcgan.errors import InputError
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.predict.foreign import ForeignModel
from bcgan.predict.model import OUT_OF_DISTRIBUTION, Card, Model
from bcgan.predict.tile_groups import Group, SlideTiles, find_groups, read_group
from bcgan.settings import Data
from bcgan.slides.coordinates import TileCoordinates, parse_tile_name
from bcgan.slides.files import ImageFile
from bcgan.slides.patches import PatchGrid, cut_patches
from bcgan.slides.reader import open_image, stated_mpp
from bcgan.slides.scale import MAX_ENLARGEMENT, Mpp, contradicts, user_mpp

TABLE_PATTERN = "x and y of data.labels"  # for messages, in place of the naming pattern of tiles
METRICS = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1")


def assess(
    model: Model,
    experiment: Experiment,
    microns_per_pixel: float | None,
    folder: Path,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score a labeled data set and write images.csv, one row per image, and assessment.json.

    The probability of an image is the mean over its in-distribution patches. An image without any is refused; its
    probability is then the mean over all patches and is left out of images.csv. Files whose names state places in a
    slide are scored together, as `bcgan predict` scores them, and so are images whose places the data set has.

    Args:
        experiment: Names the data set. Only its `data` and `evaluate` settings are used, and patients of every role
            are scored alike.
        microns_per_pixel: Of the images. Defaults to the value of the data set, else of each file.
        labels: Class of the data set by class of a network in WSInfer's format, where their names differ.

    Returns:
        The content of assessment.json. `judged` covers the images that are not refused, `every` all that are readable
        and have tissue; both hold images, their number by class, patients, and figures: {metric: {value, low, high,
        seeds}}. Intervals are by patient bootstrap.

    Raises:
        InputError: If the data set is missing, has no image or other classes than the classifier, or is at a scale
            that the classifier cannot take.
    """
    if labels and not isinstance(model, ForeignModel):
        raise InputError("--class names the classes of a network in WSInfer's format. Leave it out for this --model.")
    if isinstance(model, ForeignModel):
        model = model.with_labels(labels or {}, experiment.data.class_names)
    if experiment.data.class_names != model.card.classes:
        raise InputError(
            f"data.classes: {', '.join(experiment.data.class_names)} are not the classes of the classifier, "
            f"{', '.join(model.card.classes)}, in their order. Set data.classes to these, or choose another --model."
        )
    records = data.records(experiment.data, mixed=microns_per_pixel is None)
    _warn_of_training_patients(records, model.card, experiment.data.name)
    mpp = user_mpp(microns_per_pixel)
    _check_scale(records, model, mpp)
    if mpp is None and model.card.microns_per_pixel:
        _check_stated_scales(records)
    with progress.bar(len(records), "assess", "image") as bar:
        rows, num_with_neighbours = _score_images(model, records, experiment.data, mpp, bar)
    table = pd.DataFrame(rows)
    thresholds = model.card.spatial_context_thresholds if num_with_neighbours else model.card.thresholds
    probability_columns = _probability_columns(model.card.classes)
    readable = table[table[probability_columns[0]].notna()]
    accepted = readable[~readable["refused"].astype(bool)]
    assessment = {
        "data": experiment.data.name, "microns_per_pixel": microns_per_pixel,
        "patches_at": model.card.microns_per_pixel, "neighbours": num_with_neighbours > 0,
        "images_with_neighbours": num_with_neighbours,
        "threshold": thresholds.limits[1], "images": len(table),
        "unreadable": len(table) - len(readable),
        "judged": _metrics(thresholds.limits[1], experiment, accepted),
        "every": _metrics(thresholds.limits[1], experiment, readable),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    images = table.copy()
    images[probability_columns] = images[probability_columns].mask(table["refused"].astype(bool), axis=0)
    images.to_csv(folder / "images.csv", index=False, float_format="%.6g")
    runs.write_json(folder / "assessment.json", assessment)
    return assessment


def _check_scale(records: list[Record], model: Model, mpp: Mpp | None) -> None:
    """Raise InputError if all images would have to be enlarged too much to reach the classifier's scale."""
    known = [mpp.x if mpp else record.mpp for record in records]
    target = model.card.microns_per_pixel
    if target and all(known) and min(known) / target > MAX_ENLARGEMENT:
        raise InputError(
            f"The images have {min(known):g} microns a pixel or more and the classifier takes {target:g}: they would "
            f"be enlarged {min(known) / target:.3g} times. Choose a classifier for this scale, or finer images."
        )


def _check_stated_scales(records: list[Record]) -> None:
    """Raise InputError if a file states another resolution than the data set has, which would be used."""
    for record in records:
        try:
            stated = stated_mpp(record.read(), record.path) if record.mpp else None
        except (OSError, ValueError):
            continue  # reported when the image is read
        if stated and contradicts(stated, record.mpp):
            raise InputError(
                f"{record.path} states {stated.x:.4g} microns a pixel, and the data set has {record.mpp:.4g}. Correct "
                "data.mpp or leave it out, or give the true one with --mpp."
            )


def _warn_of_training_patients(records: list[Record], card: Card, data_name: str) -> None:
    """Warn if the classifier may have been trained on patients of the data.

    A card has no names of patients. They are known where the run that trained the classifier lies in runs/, and of the
    public archive of IDC from its official lists.
    """
    training_data = card.training_data
    roles = read_lists(OFFICIAL_LISTS) if training_data.get("data") == "idc" else {}
    index = runs.root() / str(training_data.get("experiment")) / "preprocess" / "index.csv"
    if index.is_file():
        table = pd.read_csv(index, usecols=["patient", "role"], dtype=str, keep_default_na=False)
        roles |= dict(zip(table["patient"], table["role"], strict=True))
    known = {name for name, role in roles.items() if card.is_trained_on_all or role == "train"}
    patients = {record.patient for record in records}
    if training_data.get("data") == data_name:
        progress.log.warning(
            "assess: the classifier was trained on %s patients of this data set; if they are the same, it is too good",
            training_data["patients"],
        )
    elif common := sorted(patients & known):
        progress.log.warning(
            "assess: at least %d of %d patients (first: %s) have names of patients that the classifier may have been "
            "trained on; if they are the same, it is too good", len(common), len(patients), common[0],
        )  # fmt: skip


def summarize(assessment: dict[str, Any]) -> str:
    """Return the text that `bcgan assess` prints: one line for each set of images."""
    lines = [
        f"{assessment['images']} images, {assessment['unreadable']} unreadable or without tissue; of "
        f"{assessment['images_with_neighbours']} the neighbours in their slide are used"
    ]
    for name in ("judged", "every"):
        subset = assessment[name]
        metrics = "nothing to measure"
        if subset["figures"]:
            metrics = ", ".join(
                f"{metric} {intervals.format_estimate(subset['figures'][metric])}" for metric in METRICS
            )
        lines.append(
            f"{name}: {subset['images']} images of {subset['patients']} patients, {_count_words(subset)}; {metrics}"
        )
    return "\n".join(lines)


def _count_words(subset: dict[str, Any]) -> str:
    """Return the number of images of the second of two classes, or of each of more, in words: "12 malignant"."""
    counts = [f"{count} {name}" for name, count in subset["by_class"].items()]
    return ", ".join(counts[1:] if len(counts) == 2 else counts)


def _score_images(
    model: Model, records: list[Record], settings: Data, mpp: Mpp | None, bar
) -> tuple[list[dict[str, Any]], int]:
    """Return a row for each image, and the number of images of which neighbors in their slide are used.

    Args:
        mpp: The resolution that the user gives; `None` if there is none.
        bar: Progress bar, moved on by each image.
    """
    by_path = {record.path: record for record in records}
    rows: dict[str, dict[str, Any]] = {}
    num_together, reason = 0, ""

    def mpp_of(image: ImageFile) -> Mpp | None:
        return mpp or _data_set_mpp(model, by_path[image.path])

    for group in _find_groups(records, settings):
        tiles = read_group(group, model, mpp_of) if group.slide else ""
        members = [by_path[image.path] for image in group.images]
        if isinstance(tiles, SlideTiles):
            rows |= _tile_rows(model, members, tiles, mpp, bar)
            num_together += len(members)
        elif group.in_tile_pixels:  # places that the data set has
            rows |= _slide_rows(model, members, mpp, bar)
            num_together += len(members) if len(members) > 1 else 0
        else:
            reason = reason or tiles
            for record in members:
                rows |= _slide_rows(model, [record], mpp, bar)
    if reason:
        progress.log.warning("assess: %s", reason)
    return [rows[record.key] for record in records], num_together if model.card.spatial_context else 0


def _find_groups(records: list[Record], settings: Data) -> Iterator[Group]:
    """Yield the images of each slide, and single images, of one patient after the other.

    Folders of the classes, under any name that the data has for them, are no part of a slide's path: the neighbors of
    a patch would tell its label. Places in the data's table of labels go before those that names state.
    """
    named: dict[str, list[ImageFile]] = {}  # by patient
    placed: dict[str, list[Record]] = {}  # by slide
    for record in records:
        is_named = parse_tile_name(record.path.replace("!", "/").rpartition("/")[2]) is not None
        if UNKNOWN in (record.x, record.y) or (is_named and settings.labels is None):
            named.setdefault(record.patient, []).append(_as_file(record))
        else:
            slide = name_slide(record.key, record.patient, (record.x, record.y), settings.classes)
            placed.setdefault(slide, []).append(record)
    for files in named.values():
        yield from find_groups(files, partial(drop_class_folders, classes=settings.classes))
    for slide, members in placed.items():
        coordinates = [TileCoordinates(record.x, record.y, slide, 1.0, TABLE_PATTERN) for record in members]
        is_read_together = settings.labels is not None and len(members) > 1
        files = [_as_file(record) for record in members]
        yield Group(slide if is_read_together else "", files, coordinates, in_tile_pixels=True)


def _as_file(record: Record) -> ImageFile:
    """Return the file of a record, as `bcgan predict` would find it."""
    return ImageFile(record.key, record.path, record.source, None, 0, record.read)


def _tile_rows(
    model: Model, records: list[Record], tiles: SlideTiles, mpp: Mpp | None, bar
) -> dict[str, dict[str, Any]]:
    """Return {key: row} of the tiles of one slide, scored together as `bcgan predict` scores them."""
    tissue_rows = np.flatnonzero(tiles.has_tissue)
    probability, verdict = _predict(model, tiles.patches[tissue_rows], tiles.corners[tissue_rows])
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.path in tiles.larger:
            rows |= _slide_rows(model, [record], mpp, bar)
            continue
        bar.update()
        is_of_record = np.isin(tissue_rows, tiles.rows.get(record.path, []))
        if not is_of_record.any():
            reason = tiles.reasons.get(record.path, f"{record.path}: no tissue was found")
            progress.log.warning("assess: %s", reason)
        rows[record.key] = _image_row(model, record, probability[is_of_record], verdict[is_of_record])
    return rows


def _slide_rows(model: Model, slide: list[Record], mpp: Mpp | None, bar) -> dict[str, dict[str, Any]]:
    """Return {key: row} of the images of a slide; an image without a place is a slide of its own."""
    grids = [_cut_record(model, record, mpp, bar) for record in slide]
    readable = [(record, grid) for record, grid in zip(slide, grids, strict=True) if grid is not None]
    predictions = iter(_predict_images(model, readable))
    rows = {}
    for record, grid in zip(slide, grids, strict=True):
        scores = (np.zeros(0), np.zeros(0)) if grid is None else next(predictions)
        rows[record.key] = _image_row(model, record, *scores)
    return rows


def _image_row(model: Model, record: Record, probability: np.ndarray, verdict: np.ndarray) -> dict[str, Any]:
    """Return the row of an image with the columns of images.csv.

    Args:
        probability, verdict: Of its patches, as `_predict_images` returns them; of length 0 if it has none.

    Returns:
        image, patient, label, the probability columns (absent values are `None`), refused and patches (their number).
    """
    row = {"image": record.key, "patient": record.patient, "label": record.label}
    names = _probability_columns(model.card.classes)
    if not len(verdict):
        return row | dict.fromkeys(names) | {"refused": True, "patches": 0}
    in_distribution = verdict != OUT_OF_DISTRIBUTION
    refused = not in_distribution.any()
    means = np.atleast_1d((probability if refused else probability[in_distribution]).mean(0))
    return row | dict(zip(names, map(float, means), strict=True)) | {"refused": refused, "patches": len(verdict)}


def _probability_columns(classes: tuple[str, ...]) -> list[str]:
    """Return the columns of images.csv with the probability of the second of two classes, or of each of more."""
    return ["probability"] if len(classes) == 2 else [f"probability_{name}" for name in classes]


def _predict_images(model: Model, images: list[tuple[Record, PatchGrid]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the probabilities and verdicts of the patches of each image; all images are of one slide.

    Returns:
        A pair for each image, float, (patches,), or (patches, classes) of more than two, and integers, (patches,),
        which are indices into VERDICTS.
    """
    if not images:
        return []
    patches, coords = np.concatenate([grid.patches for _, grid in images]), None
    if len(images) > 1:  # places that the data set has
        coords = np.concatenate([_slide_coords(record, grid) for record, grid in images])
    elif len(patches) > 1:  # one image without coordinates: its patches are each other's neighbors
        coords = images[0][1].coords
    probability, verdict = _predict(model, patches, coords)
    ends = np.cumsum([len(grid.patches) for _, grid in images])[:-1]
    return list(zip(np.split(probability, ends), np.split(verdict, ends), strict=True))


def _predict(model: Model, patches: np.ndarray, coords: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities, also of rejected patches, and the verdicts of patches that have tissue."""
    verdict = model.predict(patches, coords, np.ones(len(patches), bool)).verdict
    return model.probabilities(patches, coords), verdict


def _slide_coords(record: Record, grid: PatchGrid) -> np.ndarray:
    """Return x and y of an image's patches in its slide, integers (n, 2), pixels at the model's scale."""
    corner = np.divide((record.x, record.y), (grid.scale.x, grid.scale.y))
    return grid.coords + np.rint(corner).astype(int)


def _cut_record(model: Model, record: Record, mpp: Mpp | None, bar) -> PatchGrid | None:
    """Cut an image into patches at the resolution of the user, else of the data set, else of the file.

    Returns:
        The patches; `None`, with the reason in the log, if the image cannot be read or has no tissue.
    """
    bar.update()
    mpp = mpp or _data_set_mpp(model, record)
    try:
        with open_image(record.read(), record.path) as image:
            grid = cut_patches(image, model.scale, mpp, min_tissue=model.card.min_tissue)
    except (OSError, ValueError) as error:
        progress.log.warning("assess: %s", error)
        return None
    if not len(grid.patches):
        progress.log.warning("assess: %s: no tissue was found", record.path)
        return None
    return grid


def _data_set_mpp(model: Model, record: Record) -> Mpp | None:
    """Return the resolution that the data set has for an image; `None` if none, or if the model has no scale."""
    has_scale = record.mpp is not None and model.card.microns_per_pixel is not None
    return Mpp(record.mpp, record.mpp, "data set") if has_scale else None


def _metrics(threshold: float, experiment: Experiment, table: pd.DataFrame) -> dict[str, Any]:
    """Return the counts of a set of scored images and its metrics with intervals.

    Args:
        threshold: Probability from which on an image is of the second of two classes.
        table: Rows of `_image_rows`.

    Returns:
        images, patients: Their numbers.
        by_class: Number of images by the name of the class; that of the second of two classes also by its own key.
        figures: {metric: {value, low, high, seeds}}; {} without images.
    """
    labels, patients = table["label"].to_numpy(), table["patient"].to_numpy()
    names = experiment.data.class_names
    by_class = {name: int((labels == label).sum()) for label, name in enumerate(names)}
    counts = {"images": len(table), "patients": len(np.unique(patients)), "by_class": by_class}
    counts |= {names[1]: by_class[names[1]]} if len(names) == 2 else {}
    if not len(table):
        return counts | {"figures": {}}
    probabilities = table[_probability_columns(names)].to_numpy(float)
    probabilities = probabilities[:, 0] if len(names) == 2 else probabilities
    scored = intervals.SeedPredictions({0: probabilities}, {0: threshold})
    return counts | {"figures": intervals.metrics_with_intervals(labels, scored, patients, *experiment.bootstrap)}
