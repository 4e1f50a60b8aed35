"""Differentiable augmentation of the discriminators' input (Zhao et al. 2020), so that they do not memorize patches.

Real and synthetic patches go through the same random changes, and the generator learns through them: what it makes is
not augmented itself. Dihedral orientations are the data's own (`bcgan.data.batches.dihedral`).
"""

import tensorflow as tf

from bcgan import distribute

SHIFT = 6  # pixels at most, each way; half of the patches stay where they are
DRAWS = 3  # seeds used, from the one given onwards
CONTRAST, COLOUR = 0.1, 0.05  # standard deviations


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Each patch moved by whole pixels with mirrored edges, and with another contrast and tint.

    Args:
        images: float32, about [0, 1], (batch, side, side, 3); of a batch that replicas share, this one's rows.
        seed: int64, (2,). The same seed gives the same changes.

    Returns:
        float32, the same shape; not clipped, as a clipped value has no gradient.
    """
    number, side = tf.shape(images)[0] * distribute.replicas(), images.shape[1]
    seeds = [seed + tf.constant([0, place], tf.int64) for place in range(DRAWS)]
    shift = distribute.own(tf.random.stateless_uniform((number, 2), seeds[0], 0, 2 * SHIFT + 1, tf.int32))
    stays = distribute.own(tf.random.stateless_uniform((number, 1), seeds[1])) < 0.5
    places = tf.where(stays, SHIFT, shift)[:, :, None] + tf.range(side)
    padded = tf.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="REFLECT")
    moved = tf.gather(tf.gather(padded, places[:, 0], batch_dims=1, axis=1), places[:, 1], batch_dims=1, axis=2)
    draws = distribute.own(tf.random.stateless_normal((number, 1, 1, 4), seeds[2]))
    mean = tf.reduce_mean(moved, (1, 2), keepdims=True)
    return (moved - mean) * (1 + CONTRAST * draws[..., :1]) + mean + COLOUR * draws[..., 1:]
