"""Compare the classifiers of two runs on the test patches of both, by a paired bootstrap of patients."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan.errors import InputError
from bcgan.evaluate import intervals, score


class BootstrapSettings(NamedTuple):
    """How intervals are computed."""

    resamples: int
    confidence_level: float  # in (0, 1)
    seed: int


def compare_runs(
    reference: Path,
    candidate: Path,
    settings: BootstrapSettings,
    mpp: tuple[float | None, float | None] = (None, None),
) -> list[dict[str, Any]]:
    """Return the differences of each classifier that both runs have, candidate minus reference.

    Thresholds and calibrations are those of each run, from its own validation patients.

    Args:
        reference, candidate: Folders of the stage `evaluate`.
        mpp: Microns per pixel of each run's patches. Patches of runs at different scales are matched by their places.
            Defaults to unknown: they are matched by their ids.

    Returns:
        {classifier, metric, value, low, high, p, patches, patients} for each of COMPARED_METRICS.

    Raises:
        InputError: If no test patch is in both, or a patch has another patient or label.
    """
    tables = [score.read_probabilities(folder) for folder in (reference, candidate)]
    shared = _shared_test_rows(tables, mpp)
    if not len(shared):
        raise InputError(f"{reference} and {candidate} have no test patch in common. Compare runs of the same data.")
    is_other = (shared["patient"] != shared["patient_candidate"]) | (shared["label"] != shared["label_candidate"])
    if is_other.any():
        patch = shared[_key(mpp)][is_other.idxmax()]
        raise InputError(
            f"{patch} has another patient or label in {candidate} than in {reference}. Compare runs of the same data."
        )
    labels, patients = shared["label"].to_numpy(), shared["patient"].to_numpy()
    weights = intervals.patient_weights(patients, settings.resamples, settings.seed)
    rows = shared[["row", "row_candidate"]].to_numpy().T
    by_run = [score.calibrate_classifiers(table) for table in tables]
    counts = {"patches": len(labels), "patients": len(np.unique(patients))}
    results = []
    for name in (name for name in by_run[1] if name in by_run[0]):
        rng = np.random.default_rng(settings.seed)
        reference_metrics, candidate_metrics = (
            intervals.bootstrap_metrics(labels, predictions[name].called().select(run_rows), weights, rng)
            for predictions, run_rows in zip(by_run, rows, strict=True)
        )
        differences = intervals.compare_metrics(
            candidate_metrics, reference_metrics, patients, settings.confidence_level
        )
        results += [{"classifier": name, **difference, **counts} for difference in differences]
    return results


def _key(mpp: tuple[float | None, float | None]) -> str:
    """Return the column by which patches are matched."""
    return "id" if mpp[0] == mpp[1] or None in mpp else "place"


def _shared_test_rows(tables: list[pd.DataFrame], mpp: tuple[float | None, float | None]) -> pd.DataFrame:
    """Return the test patches in both tables: the key, patient, label, row, and those of the second with _candidate.

    A place is a patient and a corner in whole microns.
    """
    key, parts = _key(mpp), []
    for table, microns in zip(tables, mpp, strict=True):
        part = table.assign(row=np.arange(len(table)))[table["role"] == "test"]
        if key == "place":
            part = part[(part["x"] >= 0) & (part["y"] >= 0)]
            corners = (part[["x", "y"]] * microns).round().astype(int).astype(str)
            part = part.assign(place=part["patient"] + " at " + corners["x"] + ", " + corners["y"] + " microns")
        parts.append(part[[key, "patient", "label", "row"]])
    return pd.merge(*parts, on=key, suffixes=("", "_candidate"))
