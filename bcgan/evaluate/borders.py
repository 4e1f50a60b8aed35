"""Errors at the borders of annotated regions, where labels are uncertain.

A patch is at a border if one that touches it, by a side or a corner, has another label. Where only a sample of a
slide's patches is known, some patches at a border cannot be recognized as such.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from bcgan.data.records import UNKNOWN
from bcgan.evaluate import intervals, metrics

COLUMN = "at_border"  # of probabilities.csv
REACH = 1.25  # largest distance along x and y, in patches, at which patches touch; coordinates may be rounded


def find_border_patches(coords: np.ndarray, labels: np.ndarray, slides: np.ndarray, patch_px: int) -> np.ndarray:
    """Return whether each patch touches one of the same slide with another label; bool, (n,).

    Args:
        coords: integers, (n, 2). x and y of the upper left corners; patches with UNKNOWN touch none.
        labels: integers, (n,).
        slides: (n,). The slide of each patch.
        patch_px: Side of a patch in the pixels of the coordinates.
    """
    at_border = np.zeros(len(labels), bool)
    frame = pd.DataFrame({"slide": slides})[(coords != UNKNOWN).all(axis=1)]
    for rows in (frame.index[indices].to_numpy() for indices in frame.groupby("slide").indices.values()):
        # p=np.inf is the larger of the distances along x and y: patches touch by a side or by a corner.
        pairs = cKDTree(coords[rows]).query_pairs(REACH * patch_px, p=np.inf, output_type="ndarray")
        differing = pairs[labels[rows[pairs[:, 0]]] != labels[rows[pairs[:, 1]]]]
        at_border[rows[differing.ravel()]] = True
    return at_border


def measure(
    labels: np.ndarray,
    predictions: intervals.SeedPredictions,
    patients: np.ndarray,
    at_border: np.ndarray,
    bootstrap: tuple[int, float, int],
) -> dict[str, Any]:
    """Count the errors at borders, means over the seeds, and measure the ROC AUC without border patches.

    Args:
        labels: integers, (n,). Of the patches of one role.
        predictions: Of the same patches, with the thresholds at which they are called.
        patients: (n,). The patient of each patch.
        at_border: bool, (n,). From `find_border_patches`.
        bootstrap: resamples, confidence and seed, as `intervals.metrics_with_intervals` takes them.

    Returns:
        {patches, border_patches, errors, border_errors, roc_auc_off_border}. The last one is {value, low, high, seeds},
        whose value is `None` if a class has no patch off the borders.
    """
    errors, border_errors = [], []
    for seed, values in predictions.probabilities.items():
        is_wrong = metrics.call(values, predictions.thresholds[seed]) != labels
        errors.append(is_wrong.sum())
        border_errors.append((is_wrong & at_border).sum())
    off_border = {"value": None, "low": None, "high": None, "seeds": len(errors)}  # if a class has no patch there
    if len(np.unique(labels[~at_border])) == len(np.unique(labels)):
        off_border = intervals.metrics_with_intervals(
            labels[~at_border], predictions.select(~at_border), patients[~at_border], *bootstrap
        )["roc_auc"]
    return {
        "patches": len(labels), "border_patches": int(at_border.sum()), "errors": float(np.mean(errors)),
        "border_errors": float(np.mean(border_errors)), "roc_auc_off_border": off_border,
    }  # fmt: skip
