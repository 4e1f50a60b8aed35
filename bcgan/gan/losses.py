"""The GAN's losses, on logits: binary cross-entropy (Goodfellow et al. 2014), or relativistic (Huang et al. 2024)."""

import tensorflow as tf

from bcgan.gan.watch import GRID_CELLS


def discriminator_loss(real: tf.Tensor, fake: tf.Tensor, kind: str = "non_saturating") -> tf.Tensor:
    """Return the loss of the discriminator from the logits of real and synthetic patches.

    At chance it is ln 4, or ln 2 if relativistic.

    Args:
        real, fake: float32, the same shape. Rows are pairs of the same class.
        kind: As `generator_loss` takes it; "saturating" and "non_saturating" are the same here. Defaults to
            "non_saturating".
    """
    if kind == "relativistic":
        return tf.reduce_mean(tf.nn.softplus(fake - real))
    return tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(fake))


def generator_loss(real: tf.Tensor | None, fake: tf.Tensor, kind: str) -> tf.Tensor:
    """Return the loss of the generator from the logits of real and synthetic patches.

    Args:
        real, fake: float32, the same shape. Rows are pairs of the same class. Only "relativistic" reads `real`.
        kind: "saturating" is the minimax loss log(1 - D); "non_saturating" is -log D, whose gradient does not vanish
            while the discriminator wins; "relativistic" compares each synthetic patch with a real one, so that not all
            of them can look alike and still be called real (Jolicoeur-Martineau 2018; R3GAN, Huang et al. 2024).

    Raises:
        ValueError: If the kind is none of these.
    """
    if kind == "saturating":
        return -tf.reduce_mean(tf.nn.softplus(fake))
    if kind == "non_saturating":
        return tf.reduce_mean(tf.nn.softplus(-fake))
    if kind == "relativistic":
        return tf.reduce_mean(tf.nn.softplus(real - fake))
    raise ValueError(f"kind must be saturating, non_saturating or relativistic. Received: kind={kind!r}")


def gradient_penalty(gradient: tf.Tensor) -> tf.Tensor:
    """Return the mean squared norm of a discriminator's gradients over real and synthetic patches.

    Times gamma it is gamma / 2 (R1 + R2) (Mescheder et al. 2018; Roth et al. 2017).

    Args:
        gradient: float32, (2n, size, size, 3). Of each logit with respect to its patch.
    """
    return tf.reduce_mean(tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32)), (1, 2, 3)))


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
    same = tf.cast(classes[:, None] == classes, tf.float32) * (1 - tf.eye(tf.shape(classes)[0]))
    similarity = tf.nn.relu(tf.matmul(layouts, layouts, transpose_b=True)) ** 2
    return tf.reduce_sum(same * similarity) / tf.maximum(tf.reduce_sum(same), 1.0)
