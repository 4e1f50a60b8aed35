"""Compare the classifiers of two runs on the test patches of both, by a paired bootstrap of patients."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan.classes import ClassPairs
from bcgan.classifiers import CLASSIFIERS
from bcgan.data.records import UNKNOWN
from bcgan.data.slide_names import slide_names
from bcgan.errors import InputError
from bcgan.evaluate import intervals, score
from bcgan.evaluate.derived import get_probabilities, seeds_by_classifier, threshold_column

MAX_SIDE_DIFFERENCE = 0.01  # of the sides of patches at two scales, which may be rounded


class BootstrapSettings(NamedTuple):
    """How intervals are computed."""

    resamples: int
    confidence_level: float  # in (0, 1)
    seed: int


class Grid(NamedTuple):
    """Scale, size and classes of a run's patches, with which patches of runs at different scales are matched."""

    mpp: float  # microns per pixel
    patch_px: int  # side of a patch, in the pixels of the coordinates
    classes: ClassPairs = ()  # the setting `data.classes`, whose names are no part of a slide's


def compare_runs(
    reference: Path,
    candidate: Path,
    settings: BootstrapSettings,
    grids: tuple[Grid, Grid] | None = None,
) -> list[dict[str, Any]]:
    """Return the differences of each classifier that both runs have, candidate minus reference.

    Thresholds and calibrations are those of each run, or of each fold, from its own validation patients.

    Args:
        reference, candidate: Folders of the stage `evaluate`, or both of the stage `cross_validation`, in which every
            patient is a test patient once.
        grids: Of each run. Patches of runs at different scales are matched by their places. Defaults to `None`: they
            are matched by their ids.

    Returns:
        {classifier, metric, value, low, high, p, p_floor, patches, patients} for each of COMPARED_METRICS. p_floor is
        the smallest p that so many resamples can give.

    Raises:
        InputError: If no test patch is in both, two test patches of a run have the same id or place, a patch has
            another patient or label, or patches at two scales show areas of different sizes.
    """
    tables = [score.read_probabilities(folder) for folder in (reference, candidate)]
    by_place = grids is not None and grids[0].mpp != grids[1].mpp
    if by_place:
        _check_areas(grids, (reference, candidate))
        tables = [table.assign(place=_describe_places(table, grid)) for table, grid in zip(tables, grids, strict=True)]
    key = "place" if by_place else "id"
    shared = _match_test_patches(tables, key)
    if not len(shared):
        raise InputError(f"{reference} and {candidate} have no test patch in common. Compare runs of the same data.")
    is_other = (shared["patient"] != shared["patient_candidate"]) | (shared["label"] != shared["label_candidate"])
    if is_other.any():
        patch = shared[key][is_other.idxmax()]
        raise InputError(
            f"{patch} has another patient or label in {candidate} than in {reference}. Compare runs of the same data."
        )
    labels, patients = shared["label"].to_numpy(), shared["patient"].to_numpy()
    weights = intervals.patient_weights(patients, settings.resamples, settings.seed)
    rows = shared[["row", "row_candidate"]].to_numpy().T
    by_run = [_predictions_by_classifier(table) for table in tables]
    counts = {"patches": len(labels), "patients": len(np.unique(patients))}
    results = []
    for name in (name for name in by_run[1] if name in by_run[0]):
        reference_metrics, candidate_metrics = (
            intervals.bootstrap_metrics(labels, predictions[name].select(run_rows), weights)
            for predictions, run_rows in zip(by_run, rows, strict=True)
        )
        differences = intervals.compare_metrics(
            candidate_metrics, reference_metrics, labels, patients, settings.confidence_level, name in CLASSIFIERS
        )
        results += [{"classifier": name, **difference, **counts} for difference in differences]
    return results


def _predictions_by_classifier(table: pd.DataFrame) -> dict[str, intervals.SeedPredictions]:
    """Return {classifier: predictions of all rows of a table}, with the thresholds that decide the class.

    Args:
        table: probabilities.csv of the stage `evaluate`, whose validation patches select thresholds; or of
            `cross_validation`, which has test patches only, calibrated, with fold and threshold of each.
    """
    if "validation" in set(table["role"]):
        return {name: predictions.called() for name, predictions in score.calibrate_classifiers(table).items()}
    by_classifier = {}
    for name, seeds in seeds_by_classifier(table).items():  # pooled folds, each calibrated, with its own threshold
        column = threshold_column(name)
        thresholds = table[column].to_numpy(float) if column in table else None  # none with more than two classes
        probabilities = {seed: get_probabilities(table, name, seed) for seed in seeds}
        folds = table["fold"].to_numpy()
        by_classifier[name] = intervals.SeedPredictions(probabilities, dict.fromkeys(seeds, thresholds), folds)
    return by_classifier


def _check_areas(grids: tuple[Grid, Grid], folders: tuple[Path, Path]) -> None:
    """Raise InputError if patches of two runs show areas whose sides, in microns, differ by more than rounding."""
    sides = [grid.patch_px * grid.mpp for grid in grids]
    if abs(sides[0] - sides[1]) > MAX_SIDE_DIFFERENCE * max(sides):
        raise InputError(
            f"A patch of {folders[0]} shows {sides[0]:g} microns and one of {folders[1]} {sides[1]:g}. Compare runs "
            "whose data.size times data.mpp is the same."
        )


def _describe_places(table: pd.DataFrame, grid: Grid) -> pd.Series:
    """Return a text for each patch that names its place: slide, which begins with the patient, and corner in microns.

    Where the corner is unknown, it is the patch's id. Patches of two runs are the same if their texts are.
    """
    corners = (table[["x", "y"]] * grid.mpp).round().astype(int).astype(str)
    places = slide_names(table, grid.classes) + " at " + corners["x"] + ", " + corners["y"] + " microns"
    return places.where((table[["x", "y"]] != UNKNOWN).all(axis=1), table["id"])


def _match_test_patches(tables: list[pd.DataFrame], key: str) -> pd.DataFrame:
    """Return the test patches that are in both tables, matched by the column `key`.

    Returns:
        Columns <key>, patient, label and row, the row number in the first table; and patient_candidate, label_candidate
        and row_candidate of the second one.

    Raises:
        InputError: If two patches of a table have the same key.
    """
    rows_by_table = []
    for table in tables:
        rows = table.assign(row=np.arange(len(table)))[table["role"] == "test"]
        if (repeated := rows[key].duplicated()).any():
            raise InputError(
                f"Two test patches of a run have the same {key}, {rows[key][repeated].iloc[0]}, so that the patches of "
                "two runs cannot be matched"
            )
        rows_by_table.append(rows[[key, "patient", "label", "row"]])
    return pd.merge(*rows_by_table, on=key, suffixes=("", "_candidate"))
