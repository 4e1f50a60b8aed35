"""The GAN's losses, on logits: binary cross-entropy (Goodfellow et al. 2014)."""

import tensorflow as tf

from bcgan.gan.watch import GRID_CELLS


def discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Return the loss of the discriminator from the logits of real and synthetic patches.

    It is ln 4 if all logits are 0.

    Args:
        real, fake: float32, of any shape.
    """
    return tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(fake))


def generator_loss(fake: tf.Tensor, kind: str) -> tf.Tensor:
    """Return the loss of the generator from the logits of synthetic patches.

    Args:
        fake: float32, of any shape.
        kind: "saturating" is the minimax loss log(1 - D); "non_saturating" is -log D, whose gradient does not vanish
            while the discriminator wins.

    Raises:
        ValueError: If the kind is neither.
    """
    if kind == "saturating":
        return -tf.reduce_mean(tf.nn.softplus(fake))
    if kind == "non_saturating":
        return tf.reduce_mean(tf.nn.softplus(-fake))
    raise ValueError(f"kind must be saturating or non_saturating. Received: kind={kind!r}")


def layout_loss(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Return how similar the layouts of a batch are within a class: 0 if unrelated, 1 if all are the same.

    A layout is the brightness of GRID_CELLS x GRID_CELLS cells. The loss is the mean over pairs of the squared
    correlation, where it is positive, so that a generator cannot give every patch of a class the same layout in other
    colors (compare mode seeking, Mao et al. 2019).

    Args:
        images: float32, (batch, size, size, 3).
        classes: integers, (batch,).
    """
    cell = images.shape[1] // GRID_CELLS
    cells = tf.nn.avg_pool2d(tf.reduce_mean(images, 3, keepdims=True), cell, cell, "VALID")
    layouts = tf.reshape(cells, (tf.shape(images)[0], -1))
    layouts = tf.math.l2_normalize(layouts - tf.reduce_mean(layouts, 1, keepdims=True), 1)
    is_same_class = tf.cast(classes[:, None] == classes, tf.float32) * (1 - tf.eye(tf.shape(classes)[0]))
    similarity = tf.nn.relu(tf.matmul(layouts, layouts, transpose_b=True)) ** 2
    return tf.reduce_sum(is_same_class * similarity) / tf.maximum(tf.reduce_sum(is_same_class), 1.0)
