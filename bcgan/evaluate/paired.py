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


def compare_runs(reference: Path, candidate: Path, settings: BootstrapSettings) -> list[dict[str, Any]]:
    """Return the differences of each classifier that both runs have, candidate minus reference.

    Thresholds and calibrations are those of each run, from its own validation patients.

    Args:
        reference, candidate: Folders of the stage `evaluate`.

    Returns:
        {classifier, metric, value, low, high, p, patches, patients} for each of COMPARED_METRICS.

    Raises:
        InputError: If no test patch is in both, or a patch has another patient or label.
    """
    tables = [score.read_probabilities(folder) for folder in (reference, candidate)]
    shared = _shared_test_rows(*tables)
    if not len(shared):
        raise InputError(f"{reference} and {candidate} have no test patch in common. Compare runs of the same data.")
    is_other = (shared["patient"] != shared["patient_candidate"]) | (shared["label"] != shared["label_candidate"])
    if is_other.any():
        patch = shared["id"][is_other.idxmax()]
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


def _shared_test_rows(reference: pd.DataFrame, candidate: pd.DataFrame) -> pd.DataFrame:
    """Return the test patches in both tables: id, patient, label, row, and those of the second with _candidate."""
    tables = (
        table.assign(row=np.arange(len(table)))[table["role"] == "test"][["id", "patient", "label", "row"]]
        for table in (reference, candidate)
    )
    return pd.merge(*tables, on="id", suffixes=("", "_candidate"))
