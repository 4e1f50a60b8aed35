"""`bcgan assess`: measure a classifier on labeled images that it was not trained on, with patient-level intervals."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.data.idc.scan import OFFICIAL_LISTS
from bcgan.data.patients import normalize_patient
from bcgan.data.records import Record
from bcgan.data.splits import read_lists
from bcgan.errors import InputError
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.predict.foreign import ForeignModel
from bcgan.predict.image_scores import probability_columns, score_images
from bcgan.predict.model import Card, Model
from bcgan.preprocess import audit
from bcgan.slides.decode import decode_image
from bcgan.slides.patches import MAX_READERS
from bcgan.slides.reader import stated_mpp
from bcgan.slides.scale import MAX_ENLARGEMENT, Mpp, contradicts, user_mpp

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
    slide are scored together, as `bcgan predict` scores them, and so are images whose places the data set has. An image
    is called by the mean of its patches' thresholds, which differ by whether their neighbors are used.

    Args:
        experiment: Names the data set. Only its `data` and `evaluate` settings are used, and patients of every role
            are scored alike.
        microns_per_pixel: Of the images. Defaults to the value of the data set, else of each file.
        labels: Class of the data set by class of a network in WSInfer's format, where their names differ.

    Returns:
        The content of assessment.json. `images_with_neighbours` counts the images with a patch whose neighbors are
        used, in their slide or in the image itself. `thresholds` are those of images without and with neighbors, each
        `None` without such images, and `threshold` is the one of all images; `None` if there are two. `judged` covers
        the images that are not refused, `every` all that are readable and have tissue; both hold images, their number
        by class, patients, and figures: {metric: {value, low, high, seeds}}. Intervals are by patient bootstrap.

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
    _warn_of_copies(records)
    with progress.bar(len(records), "assess", "image") as bar:
        table = pd.DataFrame(score_images(model, records, experiment.data, mpp, bar))
    columns = probability_columns(model.card.classes)
    readable = table[table[columns[0]].notna()]
    accepted = readable[~readable["refused"].astype(bool)]
    assessment = {
        "data": experiment.data.name, "microns_per_pixel": microns_per_pixel,
        "patches_at": model.card.microns_per_pixel, **_describe_thresholds(readable), "images": len(table),
        "unreadable": len(table) - len(readable),
        "judged": _metrics(experiment, accepted), "every": _metrics(experiment, readable),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    images = table.copy()
    images[columns] = images[columns].mask(table["refused"].astype(bool), axis=0)
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


def _warn_of_copies(records: list[Record]) -> None:
    """Warn of images that occur twice, pixel by pixel, or under two labels: each with tissue counts in the figures."""

    def read_hash(record: Record) -> str:
        try:
            pixels = decode_image(record.read(), record.path)
        except (OSError, ValueError):
            return ""  # reported when the image is read
        return audit.hash_pixels(pixels) if pixels.std((0, 1)).max() > audit.BLANK_DEVIATION else ""

    with ThreadPoolExecutor(min(MAX_READERS, os.cpu_count() or 1)) as pool:
        table = pd.DataFrame({"pixels": list(pool.map(read_hash, records)), "label": [row.label for row in records]})
    table = table[table["pixels"] != ""]
    copies = audit.find_copies(table)
    if not copies["duplicate"].any():
        return
    repeated = copies["duplicate"].idxmax()
    first = table["pixels"].eq(table["pixels"][repeated]).idxmax()
    progress.log.warning(
        "assess: %d images repeat another one (first: %s and %s), and %d have copies of another label; those with "
        "tissue all count. Remove copies and correct labels",
        copies["duplicate"].sum(), records[first].path, records[repeated].path, copies["conflicting_labels"].sum(),
    )  # fmt: skip


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
        roles |= dict(zip(map(normalize_patient, table["patient"]), table["role"], strict=True))
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


def _describe_thresholds(table: pd.DataFrame) -> dict[str, Any]:
    """Return neighbours, images_with_neighbours, threshold and thresholds, as assessment.json has them.

    Args:
        table: Rows of `score_images` with a probability.
    """
    near = table["neighbours"].to_numpy(bool)
    medians = {
        name: float(table["threshold"][rows].median()) if rows.any() else None  # few images have patches of both kinds
        for name, rows in (("alone", ~near), ("neighbours", near))
    }
    used = {value for value in medians.values() if value is not None}
    return {
        "neighbours": bool(near.any()), "images_with_neighbours": int(near.sum()),
        "threshold": used.pop() if len(used) == 1 else None, "thresholds": medians,
    }  # fmt: skip


def summarize(assessment: dict[str, Any]) -> str:
    """Return the text that `bcgan assess` prints: one line for each set of images."""
    alone, near = assessment["thresholds"].values()
    words = [
        f"{value:.4f} {text}" for value, text in ((alone, "by itself"), (near, "with neighbours")) if value is not None
    ]
    lines = [
        f"{assessment['images']} images, {assessment['unreadable']} unreadable or without tissue; of "
        f"{assessment['images_with_neighbours']} neighbouring patches are used, of their slide or of the image itself; "
        f"threshold of an image: {', '.join(words) or 'none'}"
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


def _metrics(experiment: Experiment, table: pd.DataFrame) -> dict[str, Any]:
    """Return the counts of a set of scored images and its metrics with intervals.

    Args:
        table: Rows of `score_images` with a probability; each image is called by its own threshold.

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
    probabilities = table[probability_columns(names)].to_numpy(float)
    probabilities = probabilities[:, 0] if len(names) == 2 else probabilities
    scored = intervals.SeedPredictions({0: probabilities}, {0: table["threshold"].to_numpy(float)})
    return counts | {"figures": intervals.metrics_with_intervals(labels, scored, patients, *experiment.bootstrap)}
