"""Differentiable augmentation of the discriminators' input (Zhao et al. 2020), so that they do not memorize patches.

Real and synthetic patches get the same kind of random changes, and gradients flow through these to the generator, so
that its own patches do not look augmented. Orientations are changed elsewhere (`bcgan.data.batches.random_dihedral`).
"""

import tensorflow as tf

from bcgan import distribute

MAX_SHIFT = 1 / 8  # of the side, in each direction, 6 of 50 pixels; half of the patches are not shifted
NUM_SEEDS = 3  # consecutive seeds used, from the given one on
CONTRAST_STDDEV, COLOR_STDDEV = 0.1, 0.05


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Shift each patch by whole pixels, with mirrored edges, and change its contrast and color at random.

    Args:
        images: float32, about [0, 1], (batch, size, size, 3). With several replicas, the part of the batch of this one.
        seed: int64, (2,). The same seed gives the same changes.

    Returns:
        float32, the same shape; not clipped, as a clipped value has no gradient.
    """
    batch, size = tf.shape(images)[0] * distribute.replicas(), images.shape[1]
    max_shift = int(MAX_SHIFT * size)
    seeds = [seed + tf.constant([0, offset], tf.int64) for offset in range(NUM_SEEDS)]
    shift = distribute.replica_rows(tf.random.stateless_uniform((batch, 2), seeds[0], 0, 2 * max_shift + 1, tf.int32))
    is_fixed = distribute.replica_rows(tf.random.stateless_uniform((batch, 1), seeds[1])) < 0.5
    # For each patch, the rows and columns of the padded patch to take; max_shift is the middle, without a shift.
    pixels = tf.where(is_fixed, max_shift, shift)[:, :, None] + tf.range(size)
    padded = tf.pad(images, ((0, 0), (max_shift, max_shift), (max_shift, max_shift), (0, 0)), mode="REFLECT")
    shifted_rows = tf.gather(padded, pixels[:, 0], batch_dims=1, axis=1)
    shifted = tf.gather(shifted_rows, pixels[:, 1], batch_dims=1, axis=2)
    # The first number of a patch changes its contrast, the other three its red, green and blue.
    draws = distribute.replica_rows(tf.random.stateless_normal((batch, 1, 1, 4), seeds[2]))
    mean = tf.reduce_mean(shifted, (1, 2), keepdims=True)
    return (shifted - mean) * (1 + CONTRAST_STDDEV * draws[..., :1]) + mean + COLOR_STDDEV * draws[..., 1:]
