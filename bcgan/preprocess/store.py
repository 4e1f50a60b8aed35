"""The patch store: every patch decoded once into one uint8 array, with an index that says whose it is."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan import data, progress
from bcgan.data import splits
from bcgan.data.records import UNKNOWN, Record
from bcgan.errors import InputError
from bcgan.experiment import Experiment
from bcgan.preprocess import audit, images, stain
from bcgan.preprocess.images import GAN_SIZE, at_size
from bcgan.settings import Preprocess
from bcgan.slides.decode import decode_image

CHUNK = 256
LEAST_SYNTHETIC = 8  # patches of a class; fewer would be seen again and again
INDEX_COLUMNS = [
    "id",
    "path",
    "source",
    "patient",
    "label",
    "x",
    "y",
    "role",
    "height",
    "width",
    "pixels",
    "perceptual",
]


class Store(NamedTuple):
    """images: uint8, (n, size, size, 3), memory-mapped, read-only. index: one row a patch, in the same order;
    columns INDEX_COLUMNS (pixels: SHA-256 of the decoded file, perceptual: 64-bit hash, x and y: -1 if unknown)."""

    images: np.ndarray
    index: pd.DataFrame

    def rows(self, role: str) -> np.ndarray:
        """Positions of a role's patches, int64."""
        return np.flatnonzero(self.index["role"].to_numpy() == role)


def load(folder: Path) -> Store:
    words = dict.fromkeys(("id", "path", "source", "patient", "role", "pixels"), str)
    # A patient may be called NA.
    index = pd.read_csv(folder / "index.csv", dtype={**words, "perceptual": np.uint64}, keep_default_na=False)
    return Store(np.load(folder / "patches.npy", mmap_mode="r"), index)


def allocate(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """A new memory-mapped array whose space on the disk is reserved: a full disk is an OSError here, not a bus error
    somewhere later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def of_role(store: Store, role: str) -> tuple[np.ndarray, np.ndarray]:
    """A role's patches at the GAN's size, uint8 (n, 50, 50, 3), and their labels."""
    rows = store.rows(role)
    return at_size(store.images[rows], GAN_SIZE), store.index["label"].to_numpy()[rows]


def load_synthetic(folder: Path, size: int, selected: bool) -> tuple[np.ndarray, np.ndarray]:
    """The features stage's synthetic patches at the store's size, uint8, and their labels; all, or those selected.

    All are given, with a warning, where fewer than LEAST_SYNTHETIC of a class were selected.
    """
    with np.load(folder / "synthetic.npz") as saved:
        images, labels, keep = saved["images"], saved["labels"], saved["accepted"]
    if selected and np.bincount(labels[keep], minlength=2).min() >= LEAST_SYNTHETIC:
        images, labels = images[keep], labels[keep]
    elif selected:
        progress.log.warning(
            "%s: the quality filter accepted fewer than %d synthetic patches of a class; all are used. Train the GAN "
            "for longer (gan.steps).", folder, LEAST_SYNTHETIC,
        )  # fmt: skip
    return at_size(images, size), labels


def build(experiment: Experiment, folder: Path) -> None:
    """Stage `preprocess`: decode, audit, filter, split.

    Writes patches.npy, index.csv, audit.csv, audit.json and split.json.

    Raises:
        InputError: no or unusable data; the stage's manifest is not written.
    """
    settings, size = experiment.preprocess, experiment.data.size
    records = data.records(experiment.data)
    native = data.native_size(experiment.data)
    progress.log.info("preprocess: %d patches of %d patients", len(records), len({r.patient for r in records}))
    patches = allocate(folder / "decoding.npy", np.uint8, (len(records), size, size, 3))
    rows, thumbnails = _decode_all(records, patches, settings, native)
    faults = audit.find_faults(rows, thumbnails, native)
    _write_audit(folder / "audit.csv", rows, faults)
    keep, summary = audit.apply_policy(rows, faults, settings.audit)
    _warn(rows, faults, summary["faults"])
    if not keep.any():
        why = rows["reason"][0] or ", ".join(name.replace("_", " ") for name in faults.columns[faults.iloc[0]])
        raise InputError(
            f"None of {len(rows)} patches can be used; {rows['path'][0]}: {why}. Mend them, or see preprocess.audit."
        )
    index = rows[keep].reset_index(drop=True)
    index["role"] = splits.assign_roles(index, experiment.data, experiment.seed)
    _compact(folder, patches, keep)
    summary["imputed"] = {
        "rule": "an unknown place in the slide is written as -1; an unknown patient is the patch itself",
        "places": int((index["x"] == UNKNOWN).sum()),
    }
    summary["stain"] = _normalise_stain(folder, index, settings)
    index[INDEX_COLUMNS].to_csv(folder / "index.csv", index=False)
    (folder / "audit.json").write_text(json.dumps(summary, indent=1), "utf-8")
    split = splits.describe(index, experiment.data, experiment.seed)
    (folder / "split.json").write_text(json.dumps(split, indent=1), "utf-8")
    for role, count in split["counts"].items():
        progress.log.info("preprocess: %(role)s: %(patients)d patients, %(patches)d patches, %(positives)d malignant",
                          {"role": role, **count})  # fmt: skip


def _decode_all(
    records: list[Record], patches: np.ndarray, settings: Preprocess, native: int | None
) -> tuple[pd.DataFrame, np.ndarray]:
    turn = Lock()

    def work(numbers: range) -> list[dict[str, Any]]:
        decoded = [_decode_one(records[number], settings, native, patches.shape[1]) for number in numbers]
        # The rest is many calls of microseconds, and threads that alternate in those wait more than they work.
        with turn:
            for number, (_, patch, _) in zip(numbers, decoded, strict=True):
                if patch is not None:
                    patches[number] = patch
            return [_row(records[n], image, reason) for n, (image, _, reason) in zip(numbers, decoded, strict=True)]

    rows = []
    with progress.bar(len(records), "preprocess", "patch") as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in _in_order(pool, work, len(records)):
            rows += chunk
            bar.update(len(chunk))
    thumbnails = np.stack([row.pop("thumbnail") for row in rows])
    return pd.DataFrame(rows), thumbnails


def _in_order(pool: ThreadPoolExecutor, work: Callable[[range], list[Any]], count: int) -> Iterable[list[Any]]:
    """Chunks of results in order; only a few chunks are in the air, so that a full disk or Ctrl-C stops soon."""
    chunks = (range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))
    waiting = [pool.submit(work, chunk) for chunk in islice(chunks, 8)]
    while waiting:
        yield waiting.pop(0).result()
        waiting += [pool.submit(work, chunk) for chunk in islice(chunks, 1)]


def _decode_one(
    record: Record, settings: Preprocess, native: int | None, size: int
) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """The image as it is and the patch made of it, uint8, or why there is none."""
    try:
        image = decode_image(record.read(), record.path)
    except (OSError, ValueError) as error:
        return None, None, str(error)
    return image, images.enhance(images.fit(image, native, size), settings), ""


def _row(record: Record, image: np.ndarray | None, reason: str) -> dict[str, Any]:
    height, width = (0, 0) if image is None else image.shape[:2]
    pixels = "" if image is None else hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    return {
        "id": record.key, "path": record.path, "source": record.source, "patient": record.patient,
        "label": record.label, "x": record.x, "y": record.y, "given": record.given, "height": height, "width": width,
        "pixels": pixels, "readable": image is not None, "reason": reason, **audit.measure(image),
    }  # fmt: skip


def _warn(rows: pd.DataFrame, faults: pd.DataFrame, summary: dict[str, Any]) -> None:
    """One line a fault: how many, the first file, what is wrong with it, what was done."""
    for name, fault in summary.items():
        if fault["count"]:
            row = rows.loc[faults[name].idxmax()]
            detail = row["reason"] or f"{row['path']}, {row['width']}x{row['height']} pixels"
            progress.log.warning(
                "preprocess: %d %s (first: %s): policy %s; all in audit.csv, preprocess.audit.%s changes it",
                fault["count"], name.replace("_", " "), detail, fault["policy"], name,
            )  # fmt: skip


def _write_audit(path: Path, rows: pd.DataFrame, faults: pd.DataFrame) -> None:
    """Every affected file with its faults, its size and, where it could not be read, the reason."""
    affected = faults.any(axis=1)
    table = rows.loc[affected, ["id", "path", "patient", "label", "height", "width", "reason"]].copy()
    names = np.array(faults.columns)
    table["faults"] = [" ".join(names[row]) for row in faults[affected].to_numpy(bool)]
    table.to_csv(path, index=False)


def _compact(folder: Path, patches: np.ndarray, keep: np.ndarray) -> None:
    """The kept patches as patches.npy; renamed where all are kept, copied in chunks where some are not."""
    target = folder / "patches.npy"
    patches.flush()
    if keep.all():
        (folder / "decoding.npy").rename(target)
        return
    kept_rows = np.flatnonzero(keep)
    compact = allocate(target, np.uint8, (len(kept_rows), *patches.shape[1:]))
    for start in range(0, len(kept_rows), CHUNK):
        compact[start : start + CHUNK] = patches[kept_rows[start : start + CHUNK]]
    compact.flush()
    (folder / "decoding.npy").unlink()


def _normalise_stain(folder: Path, index: pd.DataFrame, settings: Preprocess) -> dict[str, Any]:
    """Patient by patient, in place; a patient's stain is fitted on the patient alone, so nothing can leak."""
    if settings.stain_normalization == "none":
        return {"method": "none", "patients": 0, "fallbacks": []}
    patches = np.load(folder / "patches.npy", mmap_mode="r+")
    fallbacks = []
    groups = index.groupby("patient").indices
    for patient, where in groups.items():
        patches[where], worked = stain.normalise(patches[where])
        if not worked:
            fallbacks.append(str(patient))
    patches.flush()
    if fallbacks:
        progress.log.warning("preprocess: %d patients show no two stains and stay as they are", len(fallbacks))
    return {"method": settings.stain_normalization, "patients": len(groups), "fallbacks": fallbacks}
