"""`bcgan assess`: how good a classifier is on labelled images that it was not trained on, by patients."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan import data, progress, runs
from bcgan.data.records import Record
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
    where there are others; it is refused where there are none.

    Args:
        experiment: Experiment. Names the data set; of its settings only `data` and `evaluate` count, and patients of
            every role are judged alike.
        microns_per_pixel: float. Of the images; None: that of the model's patches.

    Returns:
        {data, microns_per_pixel, patches_at, threshold, images, unreadable (glass alone among them), judged and every:
        {images, malignant, patients, figures: {metric: {value, low, high, seeds}}}}: over the images that are not
        refused, and over all in which tissue could be read. Intervals are by patient bootstrap.

    Raises:
        InputError: the data set is not there, or holds no image.
    """
    records = data.records(experiment.data)
    scale = scale_of(model, microns_per_pixel)
    with progress.bar(len(records), "assess", "image") as bar:
        rows = [_judge(model, record, scale, bar) for record in records]
    table = pd.DataFrame(rows)
    read = table[table["probability"].notna()]
    found = {
        "data": experiment.data.name, "microns_per_pixel": microns_per_pixel,
        "patches_at": model.card.microns_per_pixel, "threshold": model.card.calls.threshold, "images": len(table),
        "unreadable": len(table) - len(read),
        "judged": _figures(model, experiment, read[~read["refused"].astype(bool)]),
        "every": _figures(model, experiment, read),
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


def _judge(model: Model, record: Record, scale: float, bar) -> dict[str, Any]:
    row = {"image": record.key, "patient": record.patient, "label": record.label}
    bar.update()
    try:
        tiles = images.cut(record.read(), record.path, model.card.size, scale)
    except (OSError, ValueError) as error:
        progress.log.warning("assess: %s", error)
        return row | {"probability": None, "refused": True, "patches": 0}
    if not len(tiles.patches):
        progress.log.warning("assess: %s: no tissue found, every tile is empty glass", record.path)
        return row | {"probability": None, "refused": True, "patches": 0}
    judged = model.predict(tiles.patches)
    known = judged.verdict != STRANGE
    counted = judged.probability[known] if known.any() else judged.probability
    return row | {"probability": float(counted.mean()), "refused": not known.any(), "patches": len(known)}


def _figures(model: Model, experiment: Experiment, table: pd.DataFrame) -> dict[str, Any]:
    labels, patients = table["label"].to_numpy(), table["patient"].to_numpy()
    counts = {"images": len(table), "malignant": int(labels.sum()), "patients": len(np.unique(patients))}
    if not len(table):
        return counts | {"figures": {}}
    scored = intervals.Scored({0: table["probability"].to_numpy(float)}, {0: model.card.calls.threshold})
    settings = experiment.evaluate
    figures = intervals.with_intervals(
        labels, scored, patients, settings.resamples, settings.confidence, experiment.seed
    )
    return counts | {"figures": figures}
