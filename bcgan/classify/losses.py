"""Losses of a classifier on logits, with options for imbalanced classes."""

from collections.abc import Sequence

import tensorflow as tf

FOCAL_GAMMA = 2.0  # gamma of the focal loss (Lin et al. 2017)


def class_weights(fractions: Sequence[float]) -> tuple[float, ...]:
    """Return a weight for each class that balances the classes, with a mean of one over the patches.

    Args:
        fractions: The share of each class among the patches of the batches.
    """
    return tuple(1 / len(fractions) / float(fraction) for fraction in fractions)


def batch_loss(logits: tf.Tensor, labels: tf.Tensor, kind: str, weights: tuple[float, ...]) -> tf.Tensor:
    """Return the mean loss of a batch.

    Args:
        logits: float32, (batch,), of the second of two classes, or (batch, classes).
        labels: integers, (batch,).
        kind: "bce", "weighted_bce", which uses `weights`, or "focal" (Lin et al. 2017).
        weights: Of the classes.
    """
    if logits.shape.rank == 1:
        targets = tf.cast(labels, tf.float32)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        patch_weights = targets * weights[1] + (1 - targets) * weights[0]
    else:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        patch_weights = tf.gather(tf.constant(weights, tf.float32), labels)
    if kind == "weighted_bce":
        losses *= patch_weights
    elif kind == "focal":
        losses *= (1 - tf.exp(-losses)) ** FOCAL_GAMMA
    elif kind != "bce":
        raise ValueError(f"kind must be bce, weighted_bce or focal. Received: kind={kind!r}")
    return tf.reduce_mean(losses)
