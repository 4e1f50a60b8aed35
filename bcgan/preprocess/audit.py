"""Find faulty patches (unreadable, blank, blurred, duplicates, ...), and drop or refuse them as the settings say."""

import hashlib
from typing import Any

import cv2
import numpy as np
import pandas as pd

from bcgan.errors import InputError
from bcgan.settings import Audit

BLANK_DEVIATION = 4.0  # standard deviation of gray levels, below which a patch is blank
BLUR_VARIANCE = 20.0  # variance of the Laplacian, below which a patch is blurred
MAX_HASH_BITS = 3  # of the perceptual hash's 64 that may differ between near duplicates
MAX_THUMBNAIL_DIFFERENCE = 6.0  # mean absolute difference of 16x16 thumbnails of near duplicates, gray levels
THUMBNAIL = 16
MIN_SIDE_PX = 32  # if the data set has images of any size
COPY_OF = "copy_of"
FAULTS = ("unreadable", "wrong_size", "blank", "blurred", "duplicate", "near_duplicate", "conflicting_labels")


def quality_measures(image: np.ndarray | None) -> dict[str, Any]:
    """Return the measures of an image that `find_faults` uses.

    Args:
        image: uint8, (height, width, 3). `None` for an unreadable image, whose measures are all 0.

    Returns:
        deviation: Standard deviation of gray levels.
        sharpness: Variance of the Laplacian.
        perceptual: Hash, uint64: a bit for each of the 64 lowest DCT frequencies, set if it is above their median.
        thumbnail: uint8, (16, 16), gray.
    """
    if image is None:
        thumbnail = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
        return {"deviation": 0.0, "sharpness": 0.0, "perceptual": np.uint64(0), "thumbnail": thumbnail}
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    ranked = np.sort(frequencies)
    median = (ranked[31] + ranked[32]) / 2  # ten times as fast as np.median
    bits = np.packbits(frequencies > median)
    return {
        "deviation": cv2.meanStdDev(gray)[1].item(),
        "sharpness": cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_32F))[1].item() ** 2,
        "perceptual": bits.view(np.uint64)[0],
        "thumbnail": cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA),
    }


def hash_pixels(image: np.ndarray) -> str:
    """Return the SHA-256 of the shape and the pixels of an image."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def find_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the columns duplicate and conflicting_labels of `find_faults`, bool, by the columns pixels and label."""
    is_conflicting = rows.groupby("pixels")["label"].transform("nunique") > 1
    return pd.DataFrame({"duplicate": rows.duplicated("pixels"), "conflicting_labels": is_conflicting})


def find_faults(rows: pd.DataFrame, thumbnails: np.ndarray, size: int | None) -> pd.DataFrame:
    """Return one boolean column for each fault; a patch can have several.

    `duplicate` and `near_duplicate` mark all but the first of several copies, `conflicting_labels` every copy of an
    image that has two labels. The column COPY_OF has the row number of another patch with the same or nearly the same
    image, for patches with one of these faults; else -1.

    Args:
        rows: Columns readable, height, width, label, pixels (hash of the decoded image), and those of
            `quality_measures`: deviation, sharpness, perceptual.
        thumbnails: uint8, (patches, 16, 16).
        size: Side of a complete patch, pixels. `None` means that any size from MIN_SIDE_PX on is correct.
    """
    readable = rows["readable"]
    faults = pd.DataFrame(False, index=rows.index, columns=list(FAULTS))
    faults["unreadable"] = ~readable
    shape = rows[["height", "width"]]
    faults["wrong_size"] = readable & ((shape != size).any(axis=1) if size else (shape < MIN_SIDE_PX).any(axis=1))
    faults["blank"] = readable & (rows["deviation"] < BLANK_DEVIATION)
    faults["blurred"] = readable & ~faults["blank"] & (rows["sharpness"] < BLUR_VARIANCE)
    for fault, is_affected in find_copies(rows[readable]).items():
        faults.loc[readable, fault] = is_affected
    candidates = np.flatnonzero(readable & ~faults["blank"] & ~faults["duplicate"])
    pairs = find_near_pairs(rows["perceptual"].to_numpy(np.uint64)[candidates], thumbnails[candidates])
    later, first_pairs = np.unique(pairs[:, 1], return_index=True)
    faults.iloc[candidates[later], faults.columns.get_loc("near_duplicate")] = True
    faults[COPY_OF] = _find_copies(rows, faults)
    faults.iloc[candidates[later], faults.columns.get_loc(COPY_OF)] = candidates[pairs[first_pairs, 0]]
    return faults


def _find_copies(rows: pd.DataFrame, faults: pd.DataFrame) -> np.ndarray:
    """Return for each patch the position of another one with the same pixels, if possible of another label; else -1."""
    positions = np.full(len(rows), -1)
    has_copies = np.flatnonzero(faults["duplicate"] | faults["conflicting_labels"])
    pixels, labels = rows["pixels"].to_numpy(), rows["label"].to_numpy()
    same_pixels = pd.Series(np.arange(len(rows))).groupby(pixels).indices if len(has_copies) else {}
    for position in has_copies:
        others = same_pixels[pixels[position]]
        is_other_label = labels[others] != labels[position]
        positions[position] = others[is_other_label][0] if is_other_label.any() else others[0]
    return positions


def find_near_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Return pairs of near duplicates, by their hashes (MAX_HASH_BITS) and thumbnails (MAX_THUMBNAIL_DIFFERENCE).

    Two hashes that differ in at most three bits agree in one of their four 16-bit quarters. So only images with a
    common quarter are compared, and only once, in the first quarter that they have in common.

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
        # Keys are sorted: without an equal key `step` positions further on, there is none beyond.
        while len(left := left[: np.searchsorted(left, len(order) - step)]):
            left = left[keys[left + step] == keys[left]]
            pairs = np.stack([order[left], order[left + step]], 1)
            differing_bits = hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]
            is_new = np.bitwise_count(differing_bits) <= MAX_HASH_BITS
            for earlier in range(quarter):
                is_new &= (differing_bits >> np.uint64(16 * earlier)).astype(np.uint16) > 0
            pairs = pairs[is_new]
            difference = np.abs(thumbnails[pairs[:, 0]].astype(np.int16) - thumbnails[pairs[:, 1]]).mean((1, 2))
            chunks.append(np.sort(pairs[difference <= MAX_THUMBNAIL_DIFFERENCE], 1))
            step += 1
    pairs = np.concatenate(chunks)
    return pairs[np.lexsort(pairs.T[::-1])]


def apply_policy(rows: pd.DataFrame, faults: pd.DataFrame, policy: Audit) -> tuple[np.ndarray, dict[str, Any]]:
    """Decide which patches are kept.

    Returns:
        bool, (n,), whether each patch is kept; and the counts for audit.json: patches, kept, faults {fault: {count,
        policy}}.

    Raises:
        InputError: If there is a fault whose policy is `fail`; the message names the first file.
    """
    keep = np.ones(len(rows), bool)
    counts: dict[str, Any] = {}
    for fault in FAULTS:
        action, has_fault = getattr(policy, fault), faults[fault].to_numpy()
        counts[fault] = {"count": int(has_fault.sum()), "policy": action}
        if action == "fail" and has_fault.any():
            path = rows["path"].to_numpy()[has_fault][0]
            raise InputError(
                f"{path} is {fault.replace('_', ' ')} ({has_fault.sum()} such files), and preprocess.audit.{fault} is "
                f"'fail'. Remove the file, or set preprocess.audit.{fault}=drop."
            )
        if action == "drop":
            keep &= ~has_fault
    return keep, {"patches": len(rows), "kept": int(keep.sum()), "faults": counts}
