"""Draw batches of patches for training, and augment them.

All random numbers are functions of the seed and the step, so that a resumed training gets the same batches as one
without an interruption.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bcgan.data.rows import ImageRows
from bcgan.data.views import dihedral_view

Sampler = Callable[[int], np.ndarray]  # from a step to the indices of its batch
# Hematoxylin, eosin and residual directions in optical density (Ruifrok and Johnston 2001), rows of length one.
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]], np.float32)
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


def epoch_sampler(rows: np.ndarray, batch: int, seed: int) -> Sampler:
    """Return a sampler that goes through the indices in a new random order in each epoch.

    The indices at the end of an epoch that do not fill a batch are left out.

    Args:
        rows: int64, (n,). Indices to draw from.
        batch: Batch size. If it is more than n, n is used.
    """
    batch = min(batch, len(rows))
    epoch_steps = len(rows) // batch

    def sample(step: int) -> np.ndarray:
        epoch, position = divmod(step, epoch_steps)
        order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        return rows[order[position * batch : (position + 1) * batch]]

    return sample


def weighted_sampler(sample_weights: np.ndarray, batch: int, seed: int) -> Sampler:
    """Return a sampler that draws indices with replacement, with probabilities proportional to weights.

    Args:
        sample_weights: float >= 0, (n,). Weights of the indices 0 to n - 1. Their sum does not matter.
        batch: Batch size.
    """
    cumulative = np.cumsum(sample_weights) / np.sum(sample_weights)

    def sample(step: int) -> np.ndarray:
        # The last number separates random streams: 1 is that of crops, 2 that of `mixed_sampler`.
        draws = np.random.default_rng((seed, step, 3)).random(batch)
        return np.minimum(np.searchsorted(cumulative, draws, side="right"), len(cumulative) - 1)

    return sample


def class_balanced_sampler(
    rows: np.ndarray, labels: np.ndarray, batch: int, seed: int, num_classes: int = 2
) -> Sampler:
    """Return a sampler that draws as many of every batch from each class, the first class first, with replacement.

    If the batch size is not a multiple of the number of classes, the first classes get one more.

    Args:
        rows: int64. Indices to draw from.
        labels: integers, (n,). Of all patches, also of those that are not in `rows`.
        batch: Batch size.
    """
    groups = [rows[labels[rows] == label] for label in range(num_classes)]
    counts = [(batch + num_classes - 1 - label) // num_classes for label in range(num_classes)]

    def sample(step: int) -> np.ndarray:
        rng = np.random.default_rng((seed, step))
        return np.concatenate([rng.choice(group, count) for group, count in zip(groups, counts, strict=True)])

    return sample


def mixed_sampler(sampler: Sampler, extra: np.ndarray, count: int, seed: int) -> Sampler:
    """Return a sampler of another sampler's indices, followed by `count` of `extra`, drawn with replacement."""

    def sample(step: int) -> np.ndarray:
        return np.concatenate([sampler(step), np.random.default_rng((seed, step, 2)).choice(extra, count)])

    return sample


def make_dataset(
    images: np.ndarray | ImageRows,
    labels: np.ndarray,
    sampler: Sampler,
    steps: range,
    crop: int | None = None,
    seed: int = 0,
) -> tf.data.Dataset:
    """Build a dataset of (step, images, labels) for each step; batches are read ahead.

    Args:
        images: uint8, (n, size, size, 3). Only the images of a batch are read.
        labels: integers, (n,).
        steps: Steps to draw batches for.
        crop: Side of a random square crop, another one for each image. Defaults to `None`: complete patches.
        seed: Of the crops.

    Returns:
        Elements are step, int64; images, uint8 (batch, size, size, 3); labels, int32 (batch,).
    """
    size = crop or images.shape[1]

    def read_batch(step: int):
        """Read the batch of a step; arrays as the elements of the dataset."""
        rows = sampler(int(step))
        batch = images[rows]
        if size < batch.shape[1]:
            rng = np.random.default_rng((seed, int(step), 1))
            corners = rng.integers(0, batch.shape[1] - size + 1, (len(rows), 2))
            pairs = zip(batch, corners, strict=True)
            batch = np.stack([image[top : top + size, left : left + size] for image, (top, left) in pairs])
        return np.int64(step), batch, labels[rows].astype(np.int32)

    def load(step):
        """Read the batch of a step, and state its shape, which TensorFlow does not know of a NumPy function."""
        step, batch, batch_labels = tf.numpy_function(read_batch, [step], (tf.int64, tf.uint8, tf.int32))
        batch.set_shape((None, size, size, 3))
        batch_labels.set_shape((None,))
        step.set_shape(())
        return step, batch, batch_labels

    dataset = tf.data.Dataset.range(steps.start, steps.stop)
    options = tf.data.Options()
    # Nothing is to be tuned, and the tuning thread sleeps for up to a minute before it lets the dataset end.
    options.autotune.enabled = False
    return dataset.map(load, num_parallel_calls=2, deterministic=True).prefetch(4).with_options(options)


def random_resized_crop(images: tf.Tensor, seed: tf.Tensor, min_fraction: float) -> tf.Tensor:
    """Crop a random square of each patch and resize it bilinearly to the size of the patch.

    Cropping and resizing are one matrix product along each axis, which XLA can compile.

    Args:
        images: float32, (batch, size, size, 3).
        seed: Two integers, as for `tf.random.stateless_uniform`.
        min_fraction: Smallest side of the crop, as a fraction of the patch's.
    """
    size = images.shape[1]
    draws = tf.random.stateless_uniform((3, tf.shape(images)[0], 1), seed)
    fraction = min_fraction + (1 - min_fraction) * draws[0]
    grid = tf.linspace(0.0, 1.0, size)

    def interpolation_weights(start: tf.Tensor) -> tf.Tensor:
        """Return bilinear weights along one axis, float32, (batch, crop pixels, patch pixels).

        `start`, (batch, 1), is the place of the crop: from 0, at the first pixel, to 1, at the last.
        """
        positions = (size - 1) * (start * (1 - fraction) + fraction * grid)
        return tf.nn.relu(1 - tf.abs(positions[:, :, None] - tf.range(float(size))))

    # The weights of the rows, then those of the columns: i, l are pixels of the crop, j, k of the patch.
    row_weights, column_weights = interpolation_weights(draws[1]), interpolation_weights(draws[2])
    return tf.einsum("nij,njkc,nlk->nilc", row_weights, images, column_weights)


def inference_batch(size: int) -> int:
    """Return the number of patches of `size` pixels that networks are applied to at a time.

    It is 256 up to 50 pixels, and for larger patches as many as have the same number of pixels, but at least 16.
    """
    return max(16, min(256, 256 * 50 * 50 // size**2))


def map_in_batches(
    run: Callable[[np.ndarray], Any], images: np.ndarray | ImageRows, batch: int | None = None
) -> np.ndarray:
    """Apply a function to batches of patches and concatenate the results.

    Args:
        batch: Patches in a batch. Defaults to `inference_batch`.
    """
    batch = batch or inference_batch(images.shape[1])
    return np.concatenate([np.asarray(run(images[start : start + batch])) for start in range(0, len(images), batch)])


def to_float(images: tf.Tensor) -> tf.Tensor:
    """Convert uint8 to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def random_dihedral(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Turn each patch to one of its eight orientations (flips and turns by 90 degrees) at random.

    Pixels are gathered by index, which is six times as fast as reversing and transposing batches.

    Args:
        images: Of any type, (batch, size, size, 3).
        seed: Two integers, as for `tf.random.stateless_uniform`.
    """
    shape, size = tf.shape(images), images.shape[1]
    # Three random bits for each patch: a vertical flip (1), a horizontal flip (2), and a transposition after them (4).
    bits = tf.random.stateless_uniform((3, shape[0], 1, 1, 1), seed) < 0.5
    orientations = tf.reduce_sum(tf.cast(bits[:, :, 0, 0, 0], tf.int32) * [[1], [2], [4]], 0)
    grid = np.arange(size * size, dtype=np.int32).reshape(1, size, size, 1)
    # (8, size * size): for each orientation, the index of the pixel that goes to each place. Two calls, as one call of
    # `dihedral_view` transposes before it flips.
    source_pixels = np.stack([dihedral_view(dihedral_view(grid, index & 3), index & 4).ravel() for index in range(8)])
    pixels = tf.reshape(images, (shape[0], size * size, images.shape[3]))
    return tf.reshape(tf.gather(pixels, tf.gather(source_pixels, orientations), batch_dims=1), shape)


def stain_jitter(images: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Scale and shift the amount of each stain in each patch, in optical density (after Tellez et al. 2018).

    Args:
        images: float32 in [0, 1], (batch, size, size, 3).
        strength: Standard deviation of the scale; that of the shift is a fifth of it.
    """
    shape = tf.shape(images)
    draws = tf.random.stateless_normal((2, shape[0], 1, 1, 3), seed)[:, :, 0]
    density = -tf.math.log(tf.clip_by_value(images, 1 / 255, 1.0))
    # One matrix for each patch separates the stains, scales them and mixes them again.
    remixed = (np.linalg.inv(STAINS) * (1 + strength * draws[0])) @ STAINS
    density = tf.reshape(density, (shape[0], -1, 3)) @ remixed + (strength / 5 * draws[1]) @ STAINS
    return tf.reshape(tf.clip_by_value(tf.exp(-density), 0.0, 1.0), shape)


def color_jitter(images: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Change brightness and contrast of patches, float32 (batch, size, size, 3), each with this standard deviation."""
    draws = tf.random.stateless_normal((2, tf.shape(images)[0], 1, 1, 1), seed)
    mean = tf.reduce_mean(images, (1, 2, 3), keepdims=True)
    images = (images - mean) * (1 + strength * draws[0]) + mean + strength * draws[1]
    return tf.clip_by_value(images, 0.0, 1.0)
