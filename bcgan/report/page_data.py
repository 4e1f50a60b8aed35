"""The data of the page's interactive parts: curves by threshold, maps of slides, patients, and tables to download."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan import data
from bcgan.classes import class_noun
from bcgan.classify.calibration import Calibration, apply
from bcgan.report import slide_figures, tables
from bcgan.report.patient_figures import ordered_patients
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_NAMES, Frame

THRESHOLD_STEPS = 500  # of the slider, from 0 to 1
PROBABILITY_DECIMALS = 6  # in patches.csv, as results are compared with thresholds that have more than three
ACCURACY_DECIMALS = 3  # in patients.json
MAX_SLIDE_PATCHES = 20_000  # of all slides in the page together; with more, the last slides are left out of it
MAX_SLIDE_VALUES = 40_000  # probabilities of slides in the page; with more, fewer classifiers are in it
MAX_PATCHES_BYTES = 1_200_000  # of patches.csv; with more, only the first classifiers are in it
SCALE = 65_535  # of probabilities that are stored as 16 bits


def page_data(run: Run, frames: dict[str, Frame]) -> dict[str, Any]:
    """Return what the page's script, report.js, reads; it is written into the page as JSON.

    Args:
        frames: Of the figures that the script draws into, by name.
    """
    return {
        "experiment": run.experiment.name,
        "classes": list(run.class_texts),
        "noun": class_noun(run.class_names[-1]),
        "classColors": [run.class_colors[name] for name in run.class_names],
        "classifiers": [{"name": name, "title": CLASSIFIER_NAMES[name]} for name in run.classifier_names],
        "steps": THRESHOLD_STEPS,
        "counts": {"patches": run.role_counts("test")["patches"], "positives": run.role_counts("test")["positives"]},
        "thresholds": {} if run.is_multiclass else {name: _by_threshold(run, name) for name in run.classifier_names},
        "slides": _slides(run),
        "patients": patients_summary(run)[::-1] if run.has_patient_names else [],
        "frames": {name: frame._asdict() for name, frame in frames.items()},
    }  # fmt: skip


def _by_threshold(run: Run, name: str) -> dict[str, Any]:
    """Return a classifier's numbers on test patches at each step of the threshold's slider, for two classes.

    Returns:
        sensitivity, specificity, calibrated, benefit: `_at_thresholds` of THRESHOLD_STEPS + 1 thresholds from 0 to 1,
            encoded by `_encode_floats`.
        marks: A dict for each rule: rule, title, threshold, the metrics at it, calibrated and benefit (`None` if it is
            not defined). Each seed has its own threshold there, as in results.json.
    """
    steps, seeds, marks = np.arange(THRESHOLD_STEPS + 1) / THRESHOLD_STEPS, run.seeds(name), []
    for rule, title in tables.RULES.items():
        thresholds = {seed: np.array([threshold]) for seed, threshold in run.thresholds_by_seed(name, rule).items()}
        at_rule = _at_thresholds(run, name, thresholds)
        calibrated, benefit = at_rule["calibrated"].item(), at_rule["benefit"].item()
        marks.append({
            "rule": rule, "title": title, **run.metrics[name]["operating_points"][rule], "calibrated": calibrated,
            "benefit": benefit if np.isfinite(benefit) else None,
        })  # fmt: skip
    curves = _at_thresholds(run, name, dict.fromkeys(seeds, steps))
    return {metric: _encode_floats(values) for metric, values in curves.items()} | {"marks": marks}


def _at_thresholds(run: Run, name: str, thresholds: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what a classifier gives at n thresholds on test patches, means over the seeds, (n,) each.

    Args:
        thresholds: {seed: thresholds of that training, (n,)}.

    Returns:
        sensitivity, specificity, calibrated (the threshold after calibration) and benefit (the net benefit at it, as in
        the decision curve; not finite where a training calibrates the threshold to 1).
    """
    test, rows = run.test_predictions, []
    is_second = test["label"].to_numpy() == 1
    share = is_second.mean()
    for seed, scores in run.probabilities_by_seed(name, test).items():
        # How many patches of each class have a probability below each threshold.
        below = [np.searchsorted(np.sort(scores[mask]), thresholds[seed]) for mask in (is_second, ~is_second)]
        sensitivity, specificity = 1 - below[0] / max(is_second.sum(), 1), below[1] / max((~is_second).sum(), 1)
        calibrated = apply(Calibration(**run.metrics[name]["calibration"][str(seed)]), thresholds[seed])
        with np.errstate(divide="ignore", invalid="ignore"):
            benefit = share * sensitivity - (1 - share) * (1 - specificity) * calibrated / (1 - calibrated)
        rows.append((sensitivity, specificity, calibrated, benefit))
    return dict(zip(("sensitivity", "specificity", "calibrated", "benefit"), np.mean(rows, axis=0), strict=True))


def _encode_floats(values: np.ndarray) -> str:
    """Return numbers as base64 of little-endian 32-bit floats: shares of many patches stay whole patches."""
    with np.errstate(over="ignore"):
        return base64.b64encode(np.asarray(values).astype("<f4").tobytes()).decode()


def _encode(probabilities: np.ndarray) -> str:
    """Return numbers in [0, 1] as base64 of little-endian unsigned 16-bit integers."""
    return base64.b64encode(np.round(np.asarray(probabilities) * SCALE).astype("<u2").tobytes()).decode()


def _encode_labels(labels: np.ndarray) -> str:
    """Return labels as base64 of unsigned 8-bit integers."""
    return base64.b64encode(np.asarray(labels).astype(np.uint8).tobytes()).decode()


def _slides(run: Run) -> list[dict[str, Any]]:
    """Return a dict for each slide that the report shows: coordinates, labels, classifiers' probabilities and calls.

    The last slides are left out until at most MAX_SLIDE_PATCHES patches remain. If these have more than
    MAX_SLIDE_VALUES probabilities, only the first classifier, which is the proposed one, and as many of the last as fit
    are kept: the ensembles come last.
    """
    if not slide_figures.select_slides(run):
        return []
    patch_px = data.coordinate_patch_px(run.experiment.data, run.store.index)
    mpp = data.microns_per_pixel(run.experiment.data)
    loaded, slides = slide_figures.load_slides(run, patch_px), []
    while loaded and sum(len(slide.table) for slide in loaded) > MAX_SLIDE_PATCHES:
        loaded = loaded[:-1]
    num_patches = sum(len(slide.table) for slide in loaded) or 1
    first, *further_names = run.classifier_names
    names = [first, *further_names[max(0, len(further_names) - MAX_SLIDE_VALUES // num_patches) :]]
    for slide in loaded:
        table = slide.table
        values = {
            name: _encode(run.true_probabilities(name, table) if run.is_multiclass
                          else run.mean_probabilities(name, table))
            for name in names
        }  # fmt: skip
        called = {name: _encode_labels(run.mean_calls(name, table)) for name in names}
        slides.append({
            "patient": slide.patient, "role": ROLE_NAMES[min(table["role"], key=len)],
            "size": (slide.cells.max(0) + 1).tolist(),
            "x": table["x"].tolist(), "y": table["y"].tolist(), "cells": slide.cells.ravel().tolist(),
            "labels": table["label"].tolist(), "values": values, "called": called,
            "thresholds": {} if run.is_multiclass else {
                name: run.mean_threshold(name) for name in names
            },
            "micronsPerCell": None if mpp is None else mpp * slide.cell_px,
        })  # fmt: skip
    return slides


def classifiers_of_patches(run: Run) -> list[str]:
    """Return the classifiers that patches.csv has: all, or the first ones if it would be too large for the page."""
    test = run.test_predictions
    size = sum(len(text) for column in ("id", "patient") for text in test[column].astype(str)) + 4 * len(test)
    num_classifiers = (MAX_PATCHES_BYTES - size) // ((PROBABILITY_DECIMALS + 3) * len(test))
    return run.classifier_names[: max(1, num_classifiers)]


def patches_table(run: Run) -> pd.DataFrame:
    """Return the content of patches.csv: id, patient, label and a column for each classifier; a row per test patch.

    A classifier's column is the probability of the second class, or that of the true class if there are more than two:
    the mean over the seeds, not calibrated with two classes.
    """
    test = run.test_predictions
    columns = {"id": test["id"], "patient": test["patient"], "label": test["label"]}
    for name in classifiers_of_patches(run):
        values = run.true_probabilities(name, test) if run.is_multiclass else run.mean_probabilities(name, test)
        columns[name] = np.round(values, PROBABILITY_DECIMALS)
    return pd.DataFrame(columns)


def patients_summary(run: Run) -> list[dict[str, Any]]:
    """Return the content of patients.json: a dict for each test patient, the worst first by the proposed classifier.

    The keys are patient, patches, by_class (numbers of patches) and accuracy (by classifier).
    """
    test = run.test_predictions
    accuracies = {name: run.patient_accuracies(name) for name in run.classifier_names}
    counts = pd.crosstab(test["patient"], test["label"]).reindex(columns=range(len(run.class_names)), fill_value=0)
    return [
        {
            "patient": patient, "patches": int(counts.loc[patient].sum()),
            "by_class": dict(zip(run.class_texts, counts.loc[patient].tolist(), strict=True)),
            "accuracy": {name: round(float(values[patient]), ACCURACY_DECIMALS)
                         for name, values in accuracies.items()},
        }
        for patient in reversed(ordered_patients(run))
    ]  # fmt: skip


def downloads(run: Run, folder: Path) -> str:
    """Return every table of the report, the test patches and the patients, by file name: JSON, compressed, in base64.

    Args:
        folder: The report's, with results.json and tables/.
    """
    files = {path.name: path.read_text("utf-8") for path in sorted((folder / "tables").glob("*.csv"))}
    files["results.json"] = (folder / "results.json").read_text("utf-8")
    files["patches.csv"] = patches_table(run).to_csv(index=False)
    files["patients.json"] = json.dumps(patients_summary(run) if run.has_patient_names else [], indent=1)
    return base64.b64encode(gzip.compress(json.dumps(files).encode(), mtime=0)).decode()
