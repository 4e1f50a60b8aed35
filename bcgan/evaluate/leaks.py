"""The leak audit: does anything of the held-out patients reach training? Each check can fail."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from bcgan.classify import calibration
from bcgan.evaluate import derived, metrics
from bcgan.evaluate.derived import classifiers, column
from bcgan.preprocess import audit as faults


def audit(
    index: pd.DataFrame,
    images: np.ndarray,
    split: dict[str, Any],
    unlabelled: bool = False,
    fitted: int = 0,
    seen: Collection[str] = (),
) -> dict[str, Any]:
    """Check a store against its split file.

    Args:
        index: columns patient, role, pixels, perceptual.
        images: uint8, (n, size, size, 3). The patches of the index.
        split: as in split.json.
        unlabelled: Whether patches of unlisted patients are used in training, distilled or without labels.
        fitted: int. What `fitted_elsewhere` counted.
        seen: Names of the patients of self-supervised pretraining.

    Returns:
        {passed, checks: {name: {passed, count, meaning}}}; count is how many offenders there are.
    """
    role = index["role"].str.removesuffix("_other")
    held_out = role.isin(["validation", "test"])
    training = role.isin(["train", "unlisted"] if unlabelled else ["train"])
    known = index["patient"].map(split["patients"])
    counts = {
        "patients_in_two_roles": int((role.groupby(index["patient"]).nunique() > 1).sum()),
        "patients_against_split_file": int(index["patient"][known != role].nunique()),
        "identical_pixels_across_roles": _shared(index["pixels"], training, held_out),
        "near_identical_across_roles": _count_near_identical(index, images, training.to_numpy(), held_out.to_numpy()),
        "thresholds_not_from_validation": fitted,
        "pretraining_saw_held_out_patients": len(set(index["patient"][held_out]) & set(seen)),
    }
    meanings = {
        "patients_in_two_roles": "patients with patches on more than one side of the split",
        "patients_against_split_file": "patients whose role is not the one that split.json names",
        "identical_pixels_across_roles": "held-out patches whose pixels also stand in training",
        "near_identical_across_roles": "held-out patches that look like one of training, by hash and thumbnail",
        "thresholds_not_from_validation": "thresholds, calibrations, context weights not fitted on validation patients",
        "pretraining_saw_held_out_patients": "validation and test patients whose patches were used in pretraining",
    }
    checks = {name: {"passed": not count, "count": count, "meaning": meanings[name]} for name, count in counts.items()}
    return {"passed": all(check["passed"] for check in checks.values()), "checks": checks}


def fitted_elsewhere(
    table: pd.DataFrame, metrics_by_name: dict[str, dict], members: tuple[str, ...] = (), side: int = 0
) -> int:
    """How many trainings have a threshold or a calibration other than what the validation patients' probabilities give,
    and whether the neighbours' weights are others.

    Args:
        table: columns id, role, x, y, label, and the probabilities of every classifier and seed.
        metrics_by_name: {classifier: {thresholds, calibration}}, as `score.evaluate` writes them.
        members: names of the classifiers whose joint decision the neighbours refine.
        side: int. Side of a patch, pixels at its own scale.
    """
    chosen = (table["role"] == "validation").to_numpy()
    labels, count = table["label"].to_numpy()[chosen], 0
    for name, seeds in classifiers(table).items():
        for seed in seeds:
            scores = table[column(name, seed)].to_numpy(float)[chosen]
            expected = [metrics.operating_points(labels, scores)["youden"], *calibration.fit(scores, labels)]
            used = [
                metrics_by_name[name]["thresholds"][str(seed)],
                *metrics_by_name[name]["calibration"][str(seed)].values(),
            ]
            count += not np.allclose(used, expected, rtol=1e-6)
    if used := metrics_by_name.get(derived.CONTEXT, {}).get("context"):
        rows = table[chosen].reset_index(drop=True)
        expected = derived.in_context(rows, derived.ensemble(rows, members), side)[1]
        count += not np.allclose(np.hstack(list(used.values())), np.hstack(expected), rtol=1e-4)
    return count


def _count_near_identical(index: pd.DataFrame, images: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> int:
    """How many held-out patches have a near double in training; patches that show nothing all look alike."""
    measured = [faults.measure(image) for image in images]
    rows = np.flatnonzero([measures["deviation"] >= faults.BLANK_DEVIATION for measures in measured])
    thumbnails = np.array([measured[row]["thumbnail"] for row in rows], np.uint8)
    pairs = rows[faults.near_pairs(index["perceptual"].to_numpy(np.uint64)[rows], thumbnails)]
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return len(np.unique(both[held_out[both[:, 0]] & training[both[:, 1]], 0]))


def _shared(values: pd.Series, training: pd.Series, held_out: pd.Series) -> int:
    """How many held-out values also stand in training."""
    return int(np.isin(values[held_out], values[training].unique()).sum())
