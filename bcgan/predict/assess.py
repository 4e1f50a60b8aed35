"""`bcgan assess`: measure a classifier on labeled images that it was not trained on, with patient-level intervals."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.data.records import UNKNOWN, Record
from bcgan.errors import InputError
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.predict.foreign import ForeignModel
from bcgan.predict.model import OUT_OF_DISTRIBUTION, Model
from bcgan.predict.predict import user_mpp
from bcgan.slides.coordinates import parse_slide_names
from bcgan.slides.patches import PatchGrid, cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import MAX_ENLARGEMENT, Mpp, contradicts

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
    probability is then the mean over all patches and is left out of images.csv. If the data set has the coordinates of
    its images in slides, the predictions of neighboring patches are used.

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
    if model.card.training_data.get("data") == experiment.data.name:
        progress.log.warning(
            "assess: the classifier was trained on %s patients of this data set; if they are the same, it is too good",
            model.card.training_data["patients"],
        )
    _check_scale(records, model, user_mpp(microns_per_pixel))
    slides: dict[str, list[Record]] = {}
    uses_context = model.card.spatial_context is not None and any(record.x != UNKNOWN for record in records)
    for record, slide in zip(records, parse_slide_names([record.key for record in records]), strict=True):
        slides.setdefault(slide if record.x != UNKNOWN else record.key, []).append(record)
    rows = []
    with progress.bar(len(records), "assess", "image") as bar:
        for slide_records in slides.values():
            rows += _image_rows(model, slide_records, user_mpp(microns_per_pixel), bar)
    table = pd.DataFrame(rows)
    thresholds = model.card.spatial_context_thresholds if uses_context else model.card.thresholds
    probability_columns = _probability_columns(model.card.classes)
    readable = table[table[probability_columns[0]].notna()]
    accepted = readable[~readable["refused"].astype(bool)]
    assessment = {
        "data": experiment.data.name, "microns_per_pixel": microns_per_pixel,
        "patches_at": model.card.microns_per_pixel, "neighbours": uses_context,
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


def summarize(assessment: dict[str, Any]) -> str:
    """Return the text that `bcgan assess` prints: one line for each set of images."""
    lines = [f"{assessment['images']} images, {assessment['unreadable']} unreadable or without tissue"]
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


def _image_rows(model: Model, slide: list[Record], mpp: Mpp | None, bar) -> Iterator[dict[str, Any]]:
    """Yield one row for each image of a slide.

    Args:
        slide: Images of one slide; an image without coordinates is a slide of its own.
        bar: Progress bar, moved on by each image.

    Yields:
        Dicts with the columns of images.csv: image, patient, label, the probability columns (absent values are `None`),
        refused and patches (their number).
    """
    grids = [_cut_record(model, record, mpp, bar) for record in slide]
    readable = [(record, grid) for record, grid in zip(slide, grids, strict=True) if grid is not None]
    predictions = iter(_predict_images(model, readable))
    for record, grid in zip(slide, grids, strict=True):
        row = {"image": record.key, "patient": record.patient, "label": record.label}
        names = _probability_columns(model.card.classes)
        if grid is None:
            yield row | dict.fromkeys(names) | {"refused": True, "patches": 0}
            continue
        probability, verdict = next(predictions)
        in_distribution = verdict != OUT_OF_DISTRIBUTION
        refused = not in_distribution.any()
        means = np.atleast_1d((probability if refused else probability[in_distribution]).mean(0))
        means = dict(zip(names, map(float, means), strict=True))
        yield row | means | {"refused": refused, "patches": len(verdict)}


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
    first_record, first_grid = images[0]
    if first_record.x != UNKNOWN:
        coords = np.concatenate([_slide_coords(record, grid) for record, grid in images])
    elif len(patches) > 1:  # one image without coordinates: its patches are each other's neighbors
        coords = first_grid.coords
    probability = model.probabilities(patches, coords)
    verdict = model.predict(patches, coords, np.ones(len(patches), bool)).verdict
    ends = np.cumsum([len(grid.patches) for _, grid in images])[:-1]
    return list(zip(np.split(probability, ends), np.split(verdict, ends), strict=True))


def _slide_coords(record: Record, grid: PatchGrid) -> np.ndarray:
    """Return x and y of an image's patches in its slide, integers (n, 2), pixels at the model's scale."""
    corner = np.divide((record.x, record.y), (grid.scale.x, grid.scale.y))
    return grid.coords + np.rint(corner).astype(int)


def _cut_record(model: Model, record: Record, mpp: Mpp | None, bar) -> PatchGrid | None:
    """Cut an image into patches at the resolution of the user, else of the data set, else of the file.

    Returns:
        The patches; `None`, with the reason in the log, if the image cannot be read or has no tissue.

    Raises:
        InputError: If the file states another resolution than the data set has.
    """
    bar.update()
    data_set_mpp = Mpp(record.mpp, record.mpp, "data set") if record.mpp and model.card.microns_per_pixel else None
    try:
        with open_image(record.read(), record.path) as image:
            if mpp is None and data_set_mpp and contradicts(image.mpp, record.mpp):
                raise InputError(
                    f"{record.path} states {image.mpp.x:.4g} microns a pixel, and the data set has {record.mpp:.4g}. "
                    "Correct data.mpp or leave it out, or give the true one with --mpp."
                )
            grid = cut_patches(image, model.scale, mpp or data_set_mpp, min_tissue=model.card.min_tissue)
    except (OSError, ValueError) as error:
        progress.log.warning("assess: %s", error)
        return None
    if not len(grid.patches):
        progress.log.warning("assess: %s: no tissue was found", record.path)
        return None
    return grid


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
    settings = experiment.evaluate
    figures = intervals.metrics_with_intervals(
        labels, scored, patients, settings.bootstrap_samples, settings.confidence_level, experiment.seed
    )
    return counts | {"figures": figures}
