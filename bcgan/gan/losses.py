"""The losses of the two players, on logits: binary cross-entropy as in the paper (Goodfellow et al. 2014)."""

import tensorflow as tf


def discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of telling real (batch, 1) from synthetic (batch, 1) logits; ln 4 where it cannot."""
    return tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(fake))


def generator_loss(fake: tf.Tensor, kind: str) -> tf.Tensor:
    """What the generator lowers, from the synthetic patches' logits.

    Args:
        kind: string. "saturating" is the minimax game's own log(1 - D); "non_saturating" is -log D, whose
            gradient does not vanish while the discriminator wins.

    Raises:
        ValueError: another kind.
    """
    if kind == "saturating":
        return -tf.reduce_mean(tf.nn.softplus(fake))
    if kind == "non_saturating":
        return tf.reduce_mean(tf.nn.softplus(-fake))
    raise ValueError(f"kind must be saturating or non_saturating. Received: kind={kind!r}")
