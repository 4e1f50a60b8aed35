"""`bcgan assess`: how good a classifier is on labelled images that it was not trained on, by patients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.data.records import UNKNOWN, Record, slide_of
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.predict import images
from bcgan.predict.model import VERDICTS, Model
from bcgan.predict.predict import scale_of

STRANGE = VERDICTS.index("out_of_distribution")
METRICS = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1")


def assess(model: Model, experiment: Experiment, microns_per_pixel: float | None, folder: Path) -> dict[str, Any]:
    """Write images.csv, a row an image, and assessment.json.

    An image's probability is the mean over its patches, those unlike the tissue that the classifier knows left out
    where there are others; it is refused where there are none. Where the data set knows the places of its images in
    slides, neighbours have a say.

    Args:
        experiment: Experiment. Names the data set; of its settings only `data` and `evaluate` count, and patients of
            every role are judged alike.
        microns_per_pixel: float. Of the images; None: that of the model's patches.

    Returns:
        {data, microns_per_pixel, patches_at, neighbours (whether they had a say), threshold, images, unreadable (glass
        alone among them), judged and every: {images, malignant, patients, figures: {metric: {value, low, high,
        seeds}}}}: over the images that are not refused, and over all in which tissue could be read. Intervals are by
        patient bootstrap.

    Raises:
        InputError: the data set is not there, or holds no image.
    """
    records = data.records(experiment.data)
    if model.card.trained.get("data") == experiment.data.name:
        progress.log.warning(
            "assess: the classifier learnt from %s patients of this data set; if these are the same, it is flattered",
            model.card.trained["patients"],
        )
    scale, slides = scale_of(model, microns_per_pixel), {}
    near = model.card.context is not None and any(record.x != UNKNOWN for record in records)
    for record, slide in zip(records, slide_of([record.key for record in records]), strict=True):
        slides.setdefault(slide if record.x != UNKNOWN else record.key, []).append(record)
    with progress.bar(len(records), "assess", "image") as bar:
        rows = [row for slide in slides.values() for row in _judge(model, slide, scale, bar)]
    table = pd.DataFrame(rows)
    calls = model.card.context_calls if near else model.card.calls
    read = table[table["probability"].notna()]
    found = {
        "data": experiment.data.name, "microns_per_pixel": microns_per_pixel,
        "patches_at": model.card.microns_per_pixel, "neighbours": near,
        "threshold": calls.threshold, "images": len(table),
        "unreadable": len(table) - len(read),
        "judged": _figures(calls.threshold, experiment, read[~read["refused"].astype(bool)]),
        "every": _figures(calls.threshold, experiment, read),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "images.csv", index=False, float_format="%.6g")
    runs.write_json(folder / "assessment.json", found)
    return found


def summary(found: dict[str, Any]) -> str:
    """What `bcgan assess` says at the end, a line a set."""
    lines = [f"{found['images']} images, {found['unreadable']} unreadable or without tissue"]
    for name in ("judged", "every"):
        one = found[name]
        said = ", ".join(
            f"{metric} {intervals.describe(one['figures'][metric])}" for metric in METRICS if one["figures"]
        )
        lines.append(
            f"{name}: {one['images']} images of {one['patients']} patients, {one['malignant']} malignant; "
            + (said or "nothing to measure")
        )
    return "\n".join(lines)


def _judge(model: Model, slide: list[Record], scale: float, bar) -> Iterator[dict[str, Any]]:
    """A row an image of one slide; an image whose place nobody recorded is a slide of its own."""
    cut = [_cut(model, record, scale, bar) for record in slide]
    read = [(record, tiles) for record, tiles in zip(slide, cut, strict=True) if tiles is not None]
    judged = iter(())
    if read:
        places = None
        if slide[0].x != UNKNOWN:
            corners = [np.round(np.array([record.x, record.y]) / scale).astype(int) for record, _ in read]
            places = np.concatenate([tiles.places + corner for corner, (_, tiles) in zip(corners, read, strict=True)])
        found = model.predict(np.concatenate([tiles.patches for _, tiles in read]), places)
        ends = np.cumsum([len(tiles.patches) for _, tiles in read])[:-1]
        judged = zip(np.split(found.probability, ends), np.split(found.verdict, ends), strict=True)
    for record, tiles in zip(slide, cut, strict=True):
        row = {"image": record.key, "patient": record.patient, "label": record.label}
        if tiles is None:
            yield row | {"probability": None, "refused": True, "patches": 0}
            continue
        probability, verdict = next(judged)
        known = verdict != STRANGE
        counted = probability[known] if known.any() else probability
        yield row | {"probability": float(counted.mean()), "refused": not known.any(), "patches": len(known)}


def _cut(model: Model, record: Record, scale: float, bar) -> images.Tiles | None:
    bar.update()
    try:
        tiles = images.cut(record.read(), record.path, model.card.size, scale)
    except (OSError, ValueError) as error:
        progress.log.warning("assess: %s", error)
        return None
    if not len(tiles.patches):
        progress.log.warning("assess: %s: no tissue found, every tile is empty glass", record.path)
        return None
    return tiles


def _figures(threshold: float, experiment: Experiment, table: pd.DataFrame) -> dict[str, Any]:
    labels, patients = table["label"].to_numpy(), table["patient"].to_numpy()
    counts = {"images": len(table), "malignant": int(labels.sum()), "patients": len(np.unique(patients))}
    if not len(table):
        return counts | {"figures": {}}
    scored = intervals.Scored({0: table["probability"].to_numpy(float)}, {0: threshold})
    settings = experiment.evaluate
    figures = intervals.with_intervals(
        labels, scored, patients, settings.resamples, settings.confidence, experiment.seed
    )
    return counts | {"figures": figures}
