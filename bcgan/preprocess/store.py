"""The patch store: every patch, decoded once, in one uint8 array, with an index of patients, labels and roles."""

import json
import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan import data, progress
from bcgan.classes import count_classes
from bcgan.data import splits
from bcgan.data.records import UNKNOWN
from bcgan.data.rows import ImageRows, NpyFile, NpyWriter
from bcgan.errors import InputError
from bcgan.experiment import Experiment
from bcgan.preprocess import audit, checks, stain, tfds_records
from bcgan.preprocess.decoding import CHUNK, decode_all
from bcgan.preprocess.images import resize_patches
from bcgan.settings import Preprocess

TFDS_COLUMNS = {"id": "id", "image_id": "image", "patient": "patient", "x": "x", "y": "y", "path": "path"}
MIN_SYNTHETIC = 8  # accepted patches of a class, below which the quality filter's results are not used
INDEX_COLUMNS = [
    "id", "image", "path", "source", "patient", "label", "x", "y", "role", "height", "width", "pixels", "perceptual",
]  # fmt: skip


class Store(NamedTuple):
    """The patches of a run.

    Attributes:
        images: uint8, (n, size, size, 3), read from the file when they are indexed.
        index: One row for each patch, in the same order, with the columns INDEX_COLUMNS: pixels is the SHA-256 of the
            decoded image, or of the patch that was cut from it, perceptual a 64-bit hash; x and y are -1 if unknown;
            image names the image that a patch is or was cut from.
    """

    images: ImageRows
    index: pd.DataFrame

    def role_indices(self, role: str) -> np.ndarray:
        """Return the indices of a role's patches, int64."""
        return np.flatnonzero(self.index["role"].to_numpy() == role)

    def select(self, rows: np.ndarray) -> tuple[ImageRows, np.ndarray]:
        """Return patches, which are read when they are indexed, and their labels."""
        return self.images.select(rows), self.index["label"].to_numpy()[rows]


def load(folder: Path) -> Store:
    """Load the store that the stage `preprocess` wrote."""
    texts = ("id", "image", "path", "source", "patient", "role", "pixels")
    dtypes = dict.fromkeys(texts, str) | {"perceptual": np.uint64}
    # Without keep_default_na=False a patient named NA would be missing.
    index = pd.read_csv(folder / "index.csv", dtype=dtypes, keep_default_na=False)
    return Store(ImageRows(NpyFile(folder / "patches.npy")), index)


def allocate(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Create a memory-mapped array and reserve its disk space, so that a full disk raises OSError, not a bus error."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def release(array: np.ndarray) -> None:
    """Let the system drop the pages of a memory-mapped array from memory; the file keeps what was written."""
    if hasattr(mmap, "MADV_DONTNEED"):
        array._mmap.madvise(mmap.MADV_DONTNEED)


def load_role(store: Store, role: str) -> tuple[ImageRows, np.ndarray]:
    """Return a role's patches, uint8 (n, size, size, 3), and their labels."""
    return store.select(store.role_indices(role))


def load_pair(store: Store, role: str, pair: tuple[int, int]) -> tuple[ImageRows, np.ndarray]:
    """Return a role's patches of two classes, and their labels: 0 for the first of the pair and 1 for the second."""
    labels = store.index["label"].to_numpy()
    rows = np.flatnonzero((store.index["role"].to_numpy() == role) & np.isin(labels, pair))
    return store.images.select(rows), (labels[rows] == pair[1]).astype(int)


def load_synthetic(folder: Path, size: int, accepted_only: bool) -> tuple[np.ndarray, np.ndarray]:
    """Load the synthetic patches of the stage `features`, resized to size x size pixels, and their labels.

    Args:
        accepted_only: Whether to leave out patches that the quality filter did not accept. If it accepted fewer than
            MIN_SYNTHETIC of a class, all are returned, with a warning.
    """
    with np.load(folder / "synthetic.npz") as saved:
        images, labels, accepted = saved["images"], saved["labels"], saved["accepted"]
    if accepted_only and are_enough(labels, accepted):
        images, labels = images[accepted], labels[accepted]
    elif accepted_only:
        progress.log.warning(
            "%s: the quality filter accepted fewer than %d synthetic patches of a class; all are used. Train the GAN "
            "for longer (gan.steps).", folder, MIN_SYNTHETIC,
        )  # fmt: skip
    return resize_patches(images, size), labels


def are_enough(labels: np.ndarray, accepted: np.ndarray) -> bool:
    """Return whether the quality filter accepted at least MIN_SYNTHETIC synthetic patches of each class.

    Args:
        labels: integers, (n,).
        accepted: bool, (n,).
    """
    return bool(np.bincount(labels[accepted], minlength=count_classes(labels)).min() >= MIN_SYNTHETIC)


def build(experiment: Experiment, folder: Path) -> None:
    """Run the stage `preprocess`: decode, audit, filter and split the patches of the data set.

    Writes patches.npy, index.csv, audit.csv, audit.json, split.json and, if the settings say so, the folder tfds.

    Raises:
        InputError: If there are no usable patches, or they have another size or scale than the settings say.
    """
    settings = experiment.preprocess
    records = data.records(experiment.data, mixed=bool(experiment.data.tile and experiment.data.tile.mpp))
    native = data.native_patch_px(experiment.data)
    unit = "images" if experiment.data.tile else "patches"
    progress.log.info("preprocess: %d %s of %d patients", len(records), unit, len({r.patient for r in records}))
    rows, thumbnails = decode_all(records, experiment, folder / "decoding.npy")
    checks.check_patch_size(rows, native, experiment.data)
    checks.check_scales(rows, experiment.data)
    faults = audit.find_faults(rows, thumbnails, native)
    _write_audit(folder / "audit.csv", rows, faults)
    keep, summary = audit.apply_policy(rows, faults, settings.audit)
    _log_faults(rows, faults, summary["faults"])
    if not keep.any():
        reason = rows["reason"][0] or ", ".join(name.replace("_", " ") for name in audit.FAULTS if faults[name].iloc[0])
        raise InputError(
            f"None of {len(rows)} patches can be used; the first, {rows['path'][0]}: {reason}. Correct the files, or "
            "change preprocess.audit."
        )
    index = rows[keep].reset_index(drop=True)
    checks.warn_of_enlarged(index, native, experiment.data.size)
    checks.warn_of_slides_of_one_class(index, experiment.data)
    if native is None and experiment.data.tile is None:
        checks.warn_of_mixed_sizes(index, experiment.data.size)
    index["role"] = splits.assign_roles(index, experiment.data, experiment.seed)
    _write_kept_patches(folder, keep)
    summary["imputed"] = {
        "rule": "an unknown place in the slide is written as -1; an unknown patient is the patch itself",
        "places": int((index["x"] == UNKNOWN).sum()),
    }
    summary["stain"] = _normalize_stains(folder, index, settings)
    index[INDEX_COLUMNS].to_csv(folder / "index.csv", index=False)
    if settings.write_tfds:
        written = load(folder)
        class_names = experiment.data.class_names
        tfds_records.write(folder / tfds_records.FOLDER, written.images, written.index, class_names, TFDS_COLUMNS)
    (folder / "audit.json").write_text(json.dumps(summary, indent=1), "utf-8")
    split = splits.describe(index, experiment.data, experiment.seed)
    (folder / "split.json").write_text(json.dumps(split, indent=1), "utf-8")
    for role, count in split["counts"].items():
        by_class = ", ".join(f"{number} {name}" for name, number in count["by_class"].items())
        progress.log.info(
            "preprocess: %s: %d patients, %d patches, %s", role, count["patients"], count["patches"], by_class
        )


def _log_faults(rows: pd.DataFrame, faults: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Warn of each fault that occurs, with its count, the first file and the policy."""
    for name, fault in summary.items():
        if fault["count"]:
            row = rows.loc[faults[name].idxmax()]
            detail = row["reason"] or f"{row['path']}, {row['width']}x{row['height']} pixels"
            progress.log.warning(
                "preprocess: %d patches have the fault '%s' (first: %s); policy: %s. All are listed in the run's "
                "preprocess/audit.csv; preprocess.audit.%s changes the policy",
                fault["count"], name.replace("_", " "), detail, fault["policy"], name,
            )  # fmt: skip


def _write_audit(path: Path, rows: pd.DataFrame, faults: pd.DataFrame) -> None:
    """Write a row for each file with a fault: its faults, size, why it could not be read, and what it is a copy of."""
    names = np.array(audit.FAULTS)
    affected = faults[names].any(axis=1)
    table = rows.loc[affected, ["id", "path", "patient", "label", "height", "width", "reason"]].copy()
    table["faults"] = [" ".join(names[row]) for row in faults.loc[affected, names].to_numpy(bool)]
    paths = np.append(rows["path"].to_numpy(), "")  # the last one is that of position -1
    table[audit.COPY_OF] = paths[faults.loc[affected, audit.COPY_OF]]
    table.to_csv(path, index=False)


def _write_kept_patches(folder: Path, keep: np.ndarray) -> None:
    """Write the kept patches to patches.npy: rename decoding.npy if all are kept, else copy them in chunks."""
    decoded, target = folder / "decoding.npy", folder / "patches.npy"
    if keep.all():
        decoded.rename(target)
        return
    patches, kept_rows = NpyFile(decoded), np.flatnonzero(keep)
    writer = NpyWriter(target, patches.shape[1:], np.uint8)
    for start in range(0, len(kept_rows), CHUNK):
        writer.append(patches[kept_rows[start : start + CHUNK]])
    writer.close()
    decoded.unlink()


def _normalize_stains(folder: Path, index: pd.DataFrame, settings: Preprocess) -> dict[str, Any]:
    """Normalize the stains of patches.npy in place, and return a summary for audit.json.

    Stains are fitted to each patient separately, so that no information leaks between roles.
    """
    if settings.stain_normalization == "none":
        return {"method": "none", "patients": 0, "fallbacks": []}
    patches = np.load(folder / "patches.npy", mmap_mode="r+")
    fallbacks = []
    groups = index.groupby("patient").indices
    for patient, rows in groups.items():
        patches[rows], is_normalized = stain.normalize(patches[rows])
        release(patches)
        if not is_normalized:
            fallbacks.append(str(patient))
    patches.flush()
    if fallbacks:
        progress.log.warning(
            "preprocess: the stains of %d patients (first: %s) were not normalized: hematoxylin and eosin could not be "
            "separated in their patches", len(fallbacks), fallbacks[0],
        )  # fmt: skip
    return {"method": settings.stain_normalization, "patients": len(groups), "fallbacks": fallbacks}
