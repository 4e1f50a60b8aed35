"""Losses of a binary classifier on logits, with options for imbalanced classes."""

import tensorflow as tf

FOCAL_GAMMA = 2.0  # gamma of the focal loss (Lin et al. 2017)


def class_weights(malignant_fraction: float) -> tuple[float, float]:
    """Return the weights of benign and malignant patches that balance the classes and have a mean of one.

    Args:
        malignant_fraction: Fraction of malignant patches in the batches.
    """
    return 0.5 / float(1 - malignant_fraction), 0.5 / float(malignant_fraction)


def batch_loss(logits: tf.Tensor, labels: tf.Tensor, kind: str, weights: tuple[float, float]) -> tf.Tensor:
    """Return the mean loss of a batch.

    Args:
        logits: float32, (batch,).
        labels: 0 to 1, (batch,).
        kind: "bce", "weighted_bce", which uses `weights`, or "focal" (Lin et al. 2017).
        weights: Of benign and malignant patches.
    """
    targets = tf.cast(labels, tf.float32)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    if kind == "weighted_bce":
        losses *= targets * weights[1] + (1 - targets) * weights[0]
    elif kind == "focal":
        losses *= (1 - tf.exp(-losses)) ** FOCAL_GAMMA
    elif kind != "bce":
        raise ValueError(f"kind must be bce, weighted_bce or focal. Received: kind={kind!r}")
    return tf.reduce_mean(losses)
