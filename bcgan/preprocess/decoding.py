"""Decode the images of a data set, in threads, as patches or by cutting them, and measure them for the audit."""

import math
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
from bcgan.data.records import Record
from bcgan.data.rows import NpyWriter
from bcgan.experiment import Experiment
from bcgan.preprocess import audit, images
from bcgan.slides.decode import read_image
from bcgan.slides.patches import cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import ModelScale, Mpp, is_plausible

CHUNK, CHUNK_IMAGES = 256, 8  # patches, and images to be cut, that are decoded by a thread at a time


class _Decoded(NamedTuple):
    """What was read of a record: an image that is a patch, or the patches of one that was cut.

    Attributes:
        patches: uint8, (n, size, size, 3); a black one if the record cannot be used.
        measured: The images that the audit measures; `None` for a record that cannot be used.
        corners: x and y of each patch; those of the record if it was not cut.
        reason: Why the record cannot be used; "" if it can.
        stated: The resolution that the file states; `None` if it states none.
    """

    patches: np.ndarray
    measured: list[np.ndarray | None]
    corners: np.ndarray
    reason: str
    stated: Mpp | None = None


def decode_all(records: list[Record], experiment: Experiment, path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Decode all records, in threads, and write their patches to `path`.

    Returns:
        One row for each patch, with its measures, and for each record that cannot be used, with the reason; and
        thumbnails, uint8 (n, 16, 16).
    """
    lock, size, is_cut = Lock(), experiment.data.size, experiment.data.tile is not None
    writer = NpyWriter(path, (size, size, 3), np.uint8)

    def decode_chunk(indices: range) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return the patches of some records, uint8 (n, size, size, 3), and their rows."""
        decoded = [_decode_record(records[index], experiment) for index in indices]
        # The rest is many calls of microseconds, in which threads would mostly wait for each other.
        with lock:
            rows = [
                row
                for index, decoded_record in zip(indices, decoded, strict=True)
                for row in _index_rows(records[index], decoded_record, is_cut and not decoded_record.reason)
            ]
        return np.concatenate([decoded_record.patches for decoded_record in decoded]), rows

    rows = []
    chunk = CHUNK if experiment.data.tile is None else CHUNK_IMAGES
    with progress.bar(len(records), "preprocess", "image") as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for patches, chunk_rows in _map_in_order(pool, decode_chunk, len(records), chunk):
            writer.append(patches)
            rows += chunk_rows
            bar.update(min(chunk, len(records) - bar.n))
    writer.close()
    thumbnails = np.stack([row.pop("thumbnail") for row in rows])
    return pd.DataFrame(rows), thumbnails


def _map_in_order(pool: ThreadPoolExecutor, work: Callable[[range], Any], count: int, chunk: int) -> Iterable[Any]:
    """Yield the results of `work` for chunks of indices, in order.

    Only a few chunks are submitted ahead, so that a full disk or Ctrl-C stops the work soon.
    """
    chunks = (range(start, min(start + chunk, count)) for start in range(0, count, chunk))
    futures = [pool.submit(work, indices) for indices in islice(chunks, 8)]
    while futures:
        yield futures.pop(0).result()
        futures += [pool.submit(work, indices) for indices in islice(chunks, 1)]


def _decode_record(record: Record, experiment: Experiment) -> _Decoded:
    """Decode an image, and cut it if the settings say so."""
    settings, size, corner = experiment.preprocess, experiment.data.size, [[record.x, record.y]]
    try:
        if experiment.data.tile:
            return _cut_record(record, experiment)
        image, stated = read_image(record.read(), record.path)
    except (OSError, ValueError) as error:
        return _Decoded(np.zeros((1, size, size, 3), np.uint8), [None], np.array(corner), str(error))
    patch = images.to_square(image, data.native_patch_px(experiment.data), size)
    return _Decoded(images.enhance(patch, settings)[None], [image], np.array(corner), "", stated)


def _cut_record(record: Record, experiment: Experiment) -> _Decoded:
    """Cut an image into patches at the scale `data.tile.mpp`, and enhance them.

    Raises:
        OSError, ValueError: If it cannot be read, is smaller than a patch or has no tissue.
    """
    size, tile, mpp = experiment.data.size, experiment.data.tile, record.mpp
    with open_image(record.read(), record.path) as image:
        if mpp is None and image.mpp is None and tile.mpp:
            raise ValueError(f"{record.path} states no resolution. Set data.mpp to its microns per pixel")
        stated = image.mpp
        image_mpp = Mpp(mpp, mpp, "data set") if mpp else stated
        if tile.mpp is None:  # keep the image's own scale: equal resolutions are not resampled
            image_mpp = Mpp(1.0, 1.0, "data set")
        scale = ModelScale(size, tile.mpp or 1.0, None, 1.0)
        grid = cut_patches(image, scale, image_mpp, tile.stride, tile.min_tissue)
    if not len(grid.patches):
        raise ValueError(f"{record.path}: no tissue was found")
    patches = np.stack([images.enhance(patch, experiment.preprocess) for patch in grid.patches])
    return _Decoded(patches, list(grid.patches), grid.coords, "", stated)


def _index_rows(record: Record, decoded: _Decoded, is_cut: bool) -> Iterable[dict[str, Any]]:
    """Yield the index row of each patch of a record, with the measures of the audit.

    stated_x and stated_y are the microns per pixel that the file states, and mpp those that the data set has; NaN
    where there are none, or none that can be true.
    """
    has_scale = decoded.stated is not None and is_plausible(decoded.stated)
    stated_x, stated_y = decoded.stated[:2] if has_scale else (math.nan, math.nan)
    for image, (x, y) in zip(decoded.measured, decoded.corners.tolist(), strict=True):
        height, width = (0, 0) if image is None else image.shape[:2]
        pixels = "" if image is None else audit.hash_pixels(image)
        yield {
            # A patch that was cut has its corner in its id.
            "id": f"{record.key}_x{x}_y{y}" if is_cut else record.key, "image": record.key, "path": record.path,
            "source": record.source, "patient": record.patient, "label": record.label, "x": x, "y": y,
            "official_split": record.official_split, "height": height, "width": width, "pixels": pixels,
            "readable": image is not None, "reason": decoded.reason, "stated_x": stated_x, "stated_y": stated_y,
            "mpp": record.mpp or math.nan, **audit.quality_measures(image),
        }  # fmt: skip
