"""The GAN's losses, on logits: binary cross-entropy (Goodfellow et al. 2014)."""

import tensorflow as tf


def discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Return the loss of the discriminator from the logits of real and synthetic patches; ln 4 at chance."""
    return tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(fake))


def generator_loss(fake: tf.Tensor, kind: str) -> tf.Tensor:
    """Return the loss of the generator from the logits of synthetic patches.

    Args:
        kind: "saturating" is the minimax loss log(1 - D); "non_saturating" is -log D, whose gradient does not vanish
            while the discriminator wins.

    Raises:
        ValueError: If the kind is neither of these.
    """
    if kind == "saturating":
        return -tf.reduce_mean(tf.nn.softplus(fake))
    if kind == "non_saturating":
        return tf.reduce_mean(tf.nn.softplus(-fake))
    raise ValueError(f"kind must be saturating or non_saturating. Received: kind={kind!r}")
