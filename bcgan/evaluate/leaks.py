"""The leak audit: check that nothing of the held-out patients was used in training."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from bcgan.classes import ClassPairs
from bcgan.classify import calibration
from bcgan.evaluate import derived, metrics
from bcgan.evaluate.derived import get_probabilities, seeds_by_classifier
from bcgan.preprocess import audit as faults

MIN_SIDE_SHARE = 0.25  # of a patch's longer side; a patch with a shorter side is hardly more than padding


def audit(
    index: pd.DataFrame,
    images: np.ndarray,
    split: dict[str, Any],
    unlabelled: bool = False,
    num_misfitted: int = 0,
    pretraining_patients: Collection[str] = (),
) -> dict[str, Any]:
    """Check a store against its split file.

    Args:
        index: columns patient, role, pixels, perceptual, width, height.
        images: uint8, (n, size, size, 3). The patches of the index.
        split: The contents of split.json.
        unlabelled: Whether patches of unlisted patients are used in training, without labels.
        num_misfitted: From `count_not_fitted_on_validation`.
        pretraining_patients: Names of the patients of self-supervised pretraining.

    Returns:
        {passed, checks: {name: {passed, count, meaning}}}; count is the number of violations.
    """
    role = index["role"].str.removesuffix("_other")
    held_out = role.isin(["validation", "test"])
    training = role.isin(["train", "unlisted"] if unlabelled else ["train"])
    split_role = index["patient"].map(split["patients"])
    counts = {
        "patients_in_two_roles": int((role.groupby(index["patient"]).nunique() > 1).sum()),
        "patients_against_split_file": int(index["patient"][split_role != role].nunique()),
        "identical_pixels_across_roles": _count_shared(index["pixels"], training, held_out),
        "near_identical_across_roles": _count_near_identical(index, images, training.to_numpy(), held_out.to_numpy()),
        "thresholds_not_from_validation": num_misfitted,
        "pretraining_saw_held_out_patients": len(set(index["patient"][held_out]) & set(pretraining_patients)),
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


def count_not_fitted_on_validation(
    table: pd.DataFrame,
    metrics_by_name: dict[str, dict],
    members: tuple[str, ...] = (),
    patch_px: int = 0,
    classes: ClassPairs = (),
) -> int:
    """Count the trainings whose threshold or calibration is not the one fitted on the validation patients.

    The weights of the spatial context count as one training.

    Args:
        table: columns id, image, patient, role, x, y, label, and the probabilities of every classifier and seed.
        metrics_by_name: {classifier: {thresholds, calibration}}, as `score.evaluate` writes them.
        members: Names of the classifiers whose ensemble is refined by spatial context.
        patch_px: Side of a patch, in the pixels of x and y.
        classes: The setting `data.classes`.
    """
    validation = (table["role"] == "validation").to_numpy()
    labels, count = table["label"].to_numpy()[validation], 0
    for name, seeds in seeds_by_classifier(table).items():
        for seed in seeds:
            scores = get_probabilities(table, name, seed)[validation]
            expected, used = (
                [*calibration.fit(scores, labels)],
                metrics_by_name[name]["calibration"][str(seed)].values(),
            )
            if scores.ndim == 1:
                expected += [metrics.select_threshold(labels, scores)]
                used = [*used, metrics_by_name[name]["thresholds"][str(seed)]]
            # Numbers with two classes, lists of a number for each class with more: joined to one array.
            count += not np.allclose(np.hstack([*used]), np.hstack(expected), rtol=1e-6)
    if used := metrics_by_name.get(derived.CONTEXT, {}).get("context"):
        validation_table = table[validation].reset_index(drop=True)
        base = derived.ensemble_probabilities(validation_table, members)
        expected = derived.refine_by_context(validation_table, base, patch_px, classes)[1]
        flat = [np.hstack([np.ravel(part) for part in parts]) for parts in (used.values(), expected)]
        count += not np.allclose(*flat, rtol=1e-4)
    return count


def _count_near_identical(index: pd.DataFrame, images: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> int:
    """Count the held-out patches that have a near duplicate among the training patches.

    Blank patches are ignored, and slivers of a slide's edge, most of which is padding: they all look alike.

    Args:
        index: Columns perceptual (uint64 hash), width and height; one row for each patch.
        images: uint8, (n, size, size, 3).
        training, held_out: bool, (n,).
    """
    measured = [faults.quality_measures(image) for image in images]
    is_blank = np.array([values["deviation"] < faults.BLANK_DEVIATION for values in measured])
    sizes_px = index[["width", "height"]].to_numpy()
    is_sliver = sizes_px.min(1) < MIN_SIDE_SHARE * sizes_px.max(1)
    rows = np.flatnonzero(~is_blank & ~is_sliver)
    thumbnails = np.array([measured[row]["thumbnail"] for row in rows], np.uint8)
    pairs = rows[faults.find_near_pairs(index["perceptual"].to_numpy(np.uint64)[rows], thumbnails)]
    # Each pair in both directions, as either patch may be the held-out one.
    directed = np.concatenate([pairs, pairs[:, ::-1]])
    crosses_split = held_out[directed[:, 0]] & training[directed[:, 1]]
    return len(np.unique(directed[crosses_split, 0]))


def _count_shared(values: pd.Series, training: pd.Series, held_out: pd.Series) -> int:
    """Count the held-out patches whose value, such as a hash, also occurs among the training patches."""
    return int(np.isin(values[held_out], values[training].unique()).sum())
