"""Faults of a collection of patches: found before any work, counted, listed file by file, treated by policy."""

from typing import Any

import cv2
import numpy as np
import pandas as pd

from bcgan.errors import InputError
from bcgan.settings import Audit

BLANK_DEVIATION = 4.0  # grey levels; below it a patch shows nothing
BLUR_VARIANCE = 20.0  # variance of the Laplacian; below it, no edge is sharp
NEAR_BITS = 3  # of the 64 of the perceptual hash
NEAR_LEVELS = 6.0  # mean absolute difference of 16x16 thumbnails, grey levels
THUMBNAIL = 16
LEAST_SIDE = 32  # pixels, where images of any size are taken
FAULTS = ("unreadable", "wrong_size", "blank", "blurred", "duplicate", "near_duplicate", "conflicting_labels")


def measure(image: np.ndarray | None) -> dict[str, Any]:
    """Grey-level deviation, sharpness, perceptual hash (64 bits of the low DCT frequencies) and a 16x16 thumbnail.

    Args:
        image: uint8, (height, width, 3); None where there is none, and everything is 0.
    """
    if image is None:
        thumbnail = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
        return {"deviation": 0.0, "sharpness": 0.0, "perceptual": np.uint64(0), "thumbnail": thumbnail}
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    ranked = np.sort(low)
    bits = np.packbits(low > (ranked[31] + ranked[32]) / 2)  # their median; NumPy's own takes ten times as long
    return {
        "deviation": cv2.meanStdDev(grey)[1].item(),
        "sharpness": cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))[1].item() ** 2,
        "perceptual": bits.view(np.uint64)[0],
        "thumbnail": cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA),
    }


def find_faults(rows: pd.DataFrame, thumbnails: np.ndarray, size: int | None) -> pd.DataFrame:
    """Return one boolean column for each fault; a patch can have several.

    `duplicate` and `near_duplicate` mark all but the first of several copies, `conflicting_labels` every copy of an
    image that has two labels.

    Args:
        rows: columns readable, height, width, deviation, sharpness, pixels (hash), perceptual, label.
        thumbnails: uint8, (patches, 16, 16).
        size: int. Side of a whole patch, pixels; None where any size from LEAST_SIDE on is right.
    """
    readable = rows["readable"]
    faults = pd.DataFrame(False, index=rows.index, columns=list(FAULTS))
    faults["unreadable"] = ~readable
    shape = rows[["height", "width"]]
    faults["wrong_size"] = readable & ((shape != size).any(axis=1) if size else (shape < LEAST_SIDE).any(axis=1))
    faults["blank"] = readable & (rows["deviation"] < BLANK_DEVIATION)
    faults["blurred"] = readable & ~faults["blank"] & (rows["sharpness"] < BLUR_VARIANCE)
    same = rows[readable].groupby("pixels")["label"]
    faults.loc[readable, "conflicting_labels"] = same.transform("nunique") > 1
    faults.loc[readable, "duplicate"] = rows[readable].duplicated("pixels")
    candidates = np.flatnonzero(readable & ~faults["blank"] & ~faults["duplicate"])
    pairs = near_pairs(rows["perceptual"].to_numpy(np.uint64)[candidates], thumbnails[candidates])
    faults.iloc[candidates[np.unique(pairs[:, 1])], faults.columns.get_loc("near_duplicate")] = True
    return faults


def near_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Pairs of images that look alike: hashes within NEAR_BITS bits and thumbnails within NEAR_LEVELS.

    Two hashes that differ in at most three bits agree in one of their four 16-bit quarters, so only patches that
    share a quarter are compared, and only in the first quarter that they share.

    Args:
        hashes: uint64, (n,).
        thumbnails: uint8, (n, 16, 16).

    Returns:
        int64, (pairs, 2), the smaller position first, each pair once.
    """
    chunks = [np.empty((0, 2), np.int64)]
    for quarter in range(4):
        keys = (hashes >> np.uint64(16 * quarter)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        left, step = np.arange(len(order)), 1
        # Whatever has no equal `step` places further on has none beyond that.
        while len(left := left[: np.searchsorted(left, len(order) - step)]):
            left = left[keys[left + step] == keys[left]]
            pairs = np.stack([order[left], order[left + step]], 1)
            unlike = hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]
            fresh = np.bitwise_count(unlike) <= NEAR_BITS
            for earlier in range(quarter):
                fresh &= (unlike >> np.uint64(16 * earlier)).astype(np.uint16) > 0
            pairs = pairs[fresh]
            levels = np.abs(thumbnails[pairs[:, 0]].astype(np.int16) - thumbnails[pairs[:, 1]]).mean((1, 2))
            chunks.append(np.sort(pairs[levels <= NEAR_LEVELS], 1))
            step += 1
    pairs = np.concatenate(chunks)
    return pairs[np.lexsort(pairs.T[::-1])]


def apply_policy(rows: pd.DataFrame, faults: pd.DataFrame, policy: Audit) -> tuple[np.ndarray, dict[str, Any]]:
    """Which patches stay, and the counts: `{fault: {count, policy}}`, patches, kept.

    Raises:
        InputError: a fault whose policy is `fail` was found; names the first file.
    """
    keep = np.ones(len(rows), bool)
    counts: dict[str, Any] = {}
    for fault in FAULTS:
        action, hit = getattr(policy, fault), faults[fault].to_numpy()
        counts[fault] = {"count": int(hit.sum()), "policy": action}
        if action == "fail" and hit.any():
            path = rows["path"].to_numpy()[hit][0]
            raise InputError(
                f"{path} is {fault.replace('_', ' ')} ({hit.sum()} such files), and preprocess.audit.{fault} is "
                f"'fail'. Remove the file, or set preprocess.audit.{fault}=drop."
            )
        if action == "drop":
            keep &= ~hit
    return keep, {"patches": len(rows), "kept": int(keep.sum()), "faults": counts}
