"""`bcgan assess`: how good a classifier is on labelled images that it was not trained on, by patients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.data.records import UNKNOWN, Record
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.predict.model import OUT_OF_DISTRIBUTION, Model
from bcgan.predict.predict import user_mpp
from bcgan.slides.coordinates import slide_names
from bcgan.slides.patches import PatchGrid, cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import Mpp

METRICS = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1")


def assess(model: Model, experiment: Experiment, microns_per_pixel: float | None, folder: Path) -> dict[str, Any]:
    """Write images.csv, one row per image, and assessment.json.

    An image's probability is the mean over its patches, those unlike the tissue that the classifier knows left out
    where there are others; it is refused where there are none. Where the data set knows the places of its images in
    slides, the predictions of neighbours are used.

    Args:
        experiment: Experiment. Names the data set; of its settings only `data` and `evaluate` count, and patients of
            every role are scored alike.
        microns_per_pixel: float. Of the images. Defaults to what the data set knows, else to what the files state.

    Returns:
        {data, microns_per_pixel, patches_at, neighbours (whether they were used), threshold, images, unreadable (glass
        alone among them), judged and every: {images, malignant, patients, figures: {metric: {value, low, high,
        seeds}}}}: over the images that are not refused, and over all in which tissue could be read. Intervals are by
        patient bootstrap.

    Raises:
        InputError: the data set is not there, or holds no image.
    """
    records = data.records(experiment.data, mixed=microns_per_pixel is None)
    if model.card.training_data.get("data") == experiment.data.name:
        progress.log.warning(
            "assess: the classifier was trained on %s patients of this data set; if they are the same, it is too good",
            model.card.training_data["patients"],
        )
    slides: dict[str, list[Record]] = {}
    near = model.card.spatial_context is not None and any(record.x != UNKNOWN for record in records)
    for record, slide in zip(records, slide_names([record.key for record in records]), strict=True):
        slides.setdefault(slide if record.x != UNKNOWN else record.key, []).append(record)
    with progress.bar(len(records), "assess", "image") as bar:
        rows = [row for slide in slides.values() for row in _image_rows(model, slide, user_mpp(microns_per_pixel), bar)]
    table = pd.DataFrame(rows)
    thresholds = model.card.spatial_context_thresholds if near else model.card.thresholds
    read = table[table["probability"].notna()]
    assessment = {
        "data": experiment.data.name, "microns_per_pixel": microns_per_pixel,
        "patches_at": model.card.microns_per_pixel, "neighbours": near,
        "threshold": thresholds.malignant, "images": len(table),
        "unreadable": len(table) - len(read),
        "judged": _figures(thresholds.malignant, experiment, read[~read["refused"].astype(bool)]),
        "every": _figures(thresholds.malignant, experiment, read),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    images = table.assign(probability=table["probability"].mask(table["refused"].astype(bool)))
    images.to_csv(folder / "images.csv", index=False, float_format="%.6g")
    runs.write_json(folder / "assessment.json", assessment)
    return assessment


def summary(assessment: dict[str, Any]) -> str:
    """What `bcgan assess` says at the end, one line per set."""
    lines = [f"{assessment['images']} images, {assessment['unreadable']} unreadable or without tissue"]
    for name in ("judged", "every"):
        subset = assessment[name]
        metrics = ", ".join(
            f"{metric} {intervals.describe(subset['figures'][metric])}" for metric in METRICS if subset["figures"]
        )
        lines.append(
            f"{name}: {subset['images']} images of {subset['patients']} patients, {subset['malignant']} malignant; "
            + (metrics or "nothing to measure")
        )
    return "\n".join(lines)


def _image_rows(model: Model, slide: list[Record], mpp: Mpp | None, bar) -> Iterator[dict[str, Any]]:
    """A row an image of one slide; an image whose place nobody recorded is a slide of its own."""
    grids = [_cut(model, record, mpp, bar) for record in slide]
    read = [(record, grid) for record, grid in zip(slide, grids, strict=True) if grid is not None]
    scored = iter(())
    if read:
        patches, places = np.concatenate([grid.patches for _, grid in read]), None
        if slide[0].x != UNKNOWN:
            places = np.concatenate([
                grid.coords + np.rint(np.divide((record.x, record.y), (grid.scale.x, grid.scale.y))).astype(int)
                for record, grid in read
            ])  # fmt: skip
        elif len(patches) > 1:
            places = read[0][1].coords
        has_tissue = np.ones(len(patches), bool)
        probability = model.probabilities(patches, places)
        verdict = model.predict(patches, places, has_tissue).verdict
        ends = np.cumsum([len(grid.patches) for _, grid in read])[:-1]
        scored = zip(np.split(probability, ends), np.split(verdict, ends), strict=True)
    for record, grid in zip(slide, grids, strict=True):
        row = {"image": record.key, "patient": record.patient, "label": record.label}
        if grid is None:
            yield row | {"probability": None, "refused": True, "patches": 0}
            continue
        probability, verdict = next(scored)
        known = verdict != OUT_OF_DISTRIBUTION
        counted = probability[known] if known.any() else probability
        yield row | {"probability": float(counted.mean()), "refused": not known.any(), "patches": len(known)}


def _cut(model: Model, record: Record, mpp: Mpp | None, bar) -> PatchGrid | None:
    """The patches of an image at the user's resolution, else the data set's, else the file's; None, and the reason in
    the log, where it cannot be read or contains no tissue."""
    bar.update()
    known = Mpp(record.mpp, record.mpp, "data set") if record.mpp and model.card.microns_per_pixel else None
    try:
        with open_image(record.read(), record.path) as image:
            grid = cut_patches(image, model.scale, mpp or known)
    except (OSError, ValueError) as error:
        progress.log.warning("assess: %s", error)
        return None
    if not len(grid.patches):
        progress.log.warning("assess: %s: no tissue was found", record.path)
        return None
    return grid


def _figures(threshold: float, experiment: Experiment, table: pd.DataFrame) -> dict[str, Any]:
    labels, patients = table["label"].to_numpy(), table["patient"].to_numpy()
    counts = {"images": len(table), "malignant": int(labels.sum()), "patients": len(np.unique(patients))}
    if not len(table):
        return counts | {"figures": {}}
    scored = intervals.Scored({0: table["probability"].to_numpy(float)}, {0: threshold})
    settings = experiment.evaluate
    figures = intervals.with_intervals(
        labels, scored, patients, settings.bootstrap_samples, settings.confidence_level, experiment.seed
    )
    return counts | {"figures": figures}
