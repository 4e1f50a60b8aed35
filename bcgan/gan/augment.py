"""Differentiable augmentation of the discriminators' input (Zhao et al. 2020), so that they do not memorize patches.

Real and synthetic patches get the same kind of random changes, and gradients flow through these to the generator, so
that its own patches do not look augmented. Of the published changes only those of color are made: shifts made the
generator repeat layouts (docs/explanation/experiments.md). Orientations are changed elsewhere
(`bcgan.data.batches.random_dihedral`).
"""

import tensorflow as tf

from bcgan import distribute

CONTRAST_STDDEV, COLOR_STDDEV = 0.1, 0.05


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Change the contrast and the color of each patch at random.

    Args:
        images: float32, about [0, 1], (batch, size, size, 3). With several replicas, the part of the batch of this one.
        seed: int64, (2,). The same seed gives the same changes.

    Returns:
        float32, the same shape; not clipped, as a clipped value has no gradient.
    """
    batch = tf.shape(images)[0] * distribute.replicas()
    # The first number of a patch changes its contrast, the other three its red, green and blue.
    draws = distribute.replica_rows(tf.random.stateless_normal((batch, 1, 1, 4), seed))
    mean = tf.reduce_mean(images, (1, 2), keepdims=True)
    return (images - mean) * (1 + CONTRAST_STDDEV * draws[..., :1]) + mean + COLOR_STDDEV * draws[..., 1:]
