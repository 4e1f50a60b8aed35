"""Compare patches in all orientations, as a generator is trained on turned and mirrored patches.

Images are compared in their eight orientations; features are averaged over these.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow as tf

from bcgan.data.views import dihedral_view

CHUNK_ROWS = 2048  # rows of each side whose distances are computed at a time
PIXEL_SIDE = 16  # to which patches are reduced where pixels are compared


class References(NamedTuple):
    """Rows that others are compared with, prepared once for many queries.

    Attributes:
        values: float, (m, d). Without their mean, as smaller numbers round less.
        mean: float, (d,).
        squared_norms: float64, (m,).
    """

    values: np.ndarray
    mean: np.ndarray
    squared_norms: np.ndarray


class Neighbors(NamedTuple):
    """The nearest reference of each query: its distance, float64, and its index; (queries,) each."""

    distances: np.ndarray
    indices: np.ndarray


def prepare(rows: np.ndarray) -> References:
    """Prepare rows, float (m, d), as references of `nearest`."""
    mean = rows.mean(0)
    values = rows - mean
    return References(values, mean, _squared_norms(values))


def nearest(
    queries: np.ndarray,
    references: References | np.ndarray,
    side: int | None = None,
    own_rows: np.ndarray | None = None,
) -> Neighbors:
    """Find nearest neighbors by Euclidean distance.

    Args:
        queries: float, (n, d).
        references: Rows of the same type, (m, d), or what `prepare` made of them.
        side: If rows are images, their side in pixels; a distance is then the smallest over the eight orientations.
            Defaults to `None`: rows are compared as they are.
        own_rows: integers, (n,). The reference that is the query itself, and no neighbor of it. Defaults to `None`:
            queries are no references.
    """
    squared, indices = np.full(len(queries), np.inf), np.zeros(len(queries), int)
    for rows, columns, block in _squared_distances(queries, references, side):
        if own_rows is not None:
            in_block = (own_rows[rows] >= columns.start) & (own_rows[rows] < columns.start + block.shape[1])
            block[in_block, own_rows[rows][in_block] - columns.start] = np.inf
        best = block.argmin(1)
        lowest = block[np.arange(len(block)), best]
        indices[rows] = np.where(lowest < squared[rows], best + columns.start, indices[rows])
        squared[rows] = np.minimum(squared[rows], lowest)
    return Neighbors(np.sqrt(np.maximum(squared, 0)), indices)


def all_distances(queries: np.ndarray, references: np.ndarray, side: int | None = None) -> np.ndarray:
    """Return the distance of every query to every reference, float32, (queries, references). Arguments as `nearest`."""
    squared = np.full((len(queries), len(references)), np.inf, np.float32)
    for rows, columns, block in _squared_distances(queries, references, side):
        squared[rows, columns] = np.minimum(squared[rows, columns], block)
    return np.sqrt(np.maximum(squared, 0))


def _squared_distances(
    queries: np.ndarray, references: References | np.ndarray, side: int | None
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yield (rows, columns, squared distances, float64) of blocks, once for each orientation of the queries."""
    prepared = references if isinstance(references, References) else prepare(references)
    for view in orientations(queries, side):
        for start in range(0, len(queries), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            chunk = view[rows] - prepared.mean
            norms = _squared_norms(chunk)
            for column in range(0, len(prepared.values), CHUNK_ROWS):
                columns = slice(column, column + CHUNK_ROWS)
                products = tf.linalg.matmul(chunk, prepared.values[columns], transpose_b=True).numpy()
                yield rows, columns, norms[:, None] + prepared.squared_norms[columns] - 2.0 * products


def orientations(rows: np.ndarray, side: int | None) -> list[np.ndarray]:
    """Return image rows, (n, side * side * channels), in their eight orientations, or alone if `side` is `None`."""
    if side is None:
        return [rows]
    images = rows.reshape(len(rows), side, side, -1)
    return [np.ascontiguousarray(dihedral_view(images, view)).reshape(rows.shape) for view in range(8)]


def _squared_norms(rows: np.ndarray) -> np.ndarray:
    """Return the squared norm of each row, float64, without a copy of all rows in double precision."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)


def reduce_pixels(images: np.ndarray) -> np.ndarray:
    """Return patches, reduced to PIXEL_SIDE a side, as rows: float32 in [0, 1], (n, PIXEL_SIDE * PIXEL_SIDE * 3)."""
    small = [cv2.resize(patch, (PIXEL_SIDE, PIXEL_SIDE), interpolation=cv2.INTER_AREA) for patch in images]
    return np.stack(small).reshape(len(images), -1).astype(np.float32) / 255


def average_orientations(extract: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from patches, (n, size, size, 3), to the means of `extract` over their eight orientations."""
    return lambda images: np.mean([extract(np.ascontiguousarray(dihedral_view(images, view))) for view in range(8)], 0)
