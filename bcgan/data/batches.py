"""Batches for training: indices are shuffled, patches are read as uint8, augmentation is by whole batch.

Everything that is random is a function of (seed, step): a run that resumes at a step sees what it would have seen.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bcgan.data.views import view

Sampler = Callable[[int], np.ndarray]
# Haematoxylin, eosin and residual directions in optical density (Ruifrok and Johnston 2001), rows of length one.
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]], np.float32)
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


def shuffled(rows: np.ndarray, batch: int, seed: int) -> Sampler:
    """Every row once an epoch, in an order of the epoch's own; the last, smaller batch is dropped.

    Args:
        rows: int64. Positions to draw from.
        batch: int. Rows a step; more than there are become all there are.
    """
    batch = min(batch, len(rows))
    steps = len(rows) // batch

    def sample(step: int) -> np.ndarray:
        epoch, place = divmod(step, steps)
        order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        return rows[order[place * batch : (place + 1) * batch]]

    return sample


def balanced(rows: np.ndarray, labels: np.ndarray, batch: int, seed: int) -> Sampler:
    """Half of every batch from each class, drawn with replacement."""
    groups = [rows[labels[rows] == label] for label in (0, 1)]

    def sample(step: int) -> np.ndarray:
        rng = np.random.default_rng((seed, step))
        return np.concatenate([rng.choice(groups[0], batch - batch // 2), rng.choice(groups[1], batch // 2)])

    return sample


def mixed(sampler: Sampler, extra: np.ndarray, count: int, seed: int) -> Sampler:
    """Another sampler's rows and `count` of `extra`, drawn with replacement."""

    def sample(step: int) -> np.ndarray:
        return np.concatenate([sampler(step), np.random.default_rng((seed, step, 2)).choice(extra, count)])

    return sample


def stream(
    images: np.ndarray,
    labels: np.ndarray,
    sampler: Sampler,
    steps: range,
    crop: int | None = None,
    seed: int = 0,
) -> tf.data.Dataset:
    """(step int64, images uint8 (batch, side, side, 3), labels (batch,)) for each step, read ahead of use.

    Args:
        images: uint8, (n, size, size, 3); may be memory-mapped, only the batch's rows are read.
        labels: integers, given as int32, or floats, given as float32; (n,).
        crop: int. Side of a random square cut, the same for a batch; None: whole patches.
    """
    side = crop or images.shape[1]
    kind = tf.float32 if np.issubdtype(labels.dtype, np.floating) else tf.int32

    def fetch(step: int):
        rows = sampler(int(step))
        top, left = np.random.default_rng((seed, int(step), 1)).integers(0, images.shape[1] - side + 1, 2)
        batch = images[rows, top : top + side, left : left + side]
        return np.int64(step), batch, labels[rows].astype(kind.as_numpy_dtype)

    def load(step):
        step, batch, classes = tf.numpy_function(fetch, [step], (tf.int64, tf.uint8, kind))
        batch.set_shape((None, side, side, 3))
        classes.set_shape((None,))
        step.set_shape(())
        return step, batch, classes

    dataset = tf.data.Dataset.range(steps.start, steps.stop)
    return dataset.map(load, num_parallel_calls=2, deterministic=True).prefetch(4)


def cut(images: tf.Tensor, seed: tf.Tensor, smallest: float) -> tf.Tensor:
    """A square part of each patch, bilinearly brought to the whole's size: two products, which XLA knows.

    Args:
        images: float32, (batch, side, side, 3).
        smallest: float. Least side of the part, as a share of the patch's.
    """
    side = images.shape[1]
    draws = tf.random.stateless_uniform((3, tf.shape(images)[0], 1), seed)
    share = smallest + (1 - smallest) * draws[0]
    grid = tf.linspace(0.0, 1.0, side)
    # Each row says how much every pixel counts for one of the part's.
    down, across = (
        tf.nn.relu(1 - tf.abs((side - 1) * (start * (1 - share) + share * grid)[:, :, None] - tf.range(float(side))))
        for start in (draws[1], draws[2])
    )
    return tf.einsum("nij,njkc,nlk->nilc", down, images, across)


def by_parts(run: Callable[[np.ndarray], Any], images: np.ndarray, batch: int = 256) -> np.ndarray:
    """What a function gives of so many patches at a time, joined."""
    return np.concatenate([np.asarray(run(images[start : start + batch])) for start in range(0, len(images), batch)])


def scale(images: tf.Tensor) -> tf.Tensor:
    """uint8 to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def dihedral(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Each patch in one of its eight orientations; tissue has no up. Any type, (batch, side, side, 3).

    Pixels are gathered by place: six times as fast as reversing and transposing whole batches.
    """
    shape, side = tf.shape(images), images.shape[1]
    draws = tf.random.stateless_uniform((3, shape[0], 1, 1, 1), seed) < 0.5
    numbers = tf.reduce_sum(tf.cast(draws[:, :, 0, 0, 0], tf.int32) * [[1], [2], [4]], 0)
    grid = np.arange(side * side, dtype=np.int32).reshape(1, side, side, 1)
    places = np.stack([view(view(grid, number & 3), number & 4).ravel() for number in range(8)])
    pixels = tf.reshape(images, (shape[0], side * side, images.shape[3]))
    return tf.reshape(tf.gather(pixels, tf.gather(places, numbers), batch_dims=1), shape)


def stain_jitter(images: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Scale and shift each stain's amount in optical density, patch by patch (after Tellez et al. 2018).

    Args:
        images: float32 in [0, 1], (batch, side, side, 3).
        strength: float. Standard deviation of the scale; the shift's is a fifth of it.
    """
    shape = tf.shape(images)
    draws = tf.random.stateless_normal((2, shape[0], 1, 1, 3), seed)[:, :, 0]
    density = -tf.math.log(tf.clip_by_value(images, 1 / 255, 1.0))
    # Separating, scaling and mixing the stains again is one matrix a patch.
    remixed = (np.linalg.inv(STAINS) * (1 + strength * draws[0])) @ STAINS
    density = tf.reshape(density, (shape[0], -1, 3)) @ remixed + (strength / 5 * draws[1]) @ STAINS
    return tf.reshape(tf.clip_by_value(tf.exp(-density), 0.0, 1.0), shape)


def color_jitter(images: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Brightness and contrast, patch by patch, each with this standard deviation."""
    draws = tf.random.stateless_normal((2, tf.shape(images)[0], 1, 1, 1), seed)
    mean = tf.reduce_mean(images, (1, 2, 3), keepdims=True)
    images = (images - mean) * (1 + strength * draws[0]) + mean + strength * draws[1]
    return tf.clip_by_value(images, 0.0, 1.0)
