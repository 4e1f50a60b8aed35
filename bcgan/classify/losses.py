"""Losses of a binary classifier on logits, adapted to class imbalance."""

import tensorflow as tf

FOCUS = 2.0  # gamma of the focal loss (Lin et al. 2017)


def class_weights(malignant: float) -> tuple[float, float]:
    """Weights of benign and malignant that give both classes the same say and a mean of one.

    Args:
        malignant: float. The share of malignant patches in the batches.
    """
    return 0.5 / float(1 - malignant), 0.5 / float(malignant)


def loss(logits: tf.Tensor, labels: tf.Tensor, kind: str, weights: tuple[float, float]) -> tf.Tensor:
    """Mean loss of a batch.

    Args:
        logits: float32, (batch,).
        labels: 0 to 1, (batch,).
        kind: string. "bce"; "weighted_bce", each class by its weight; "focal", which plays down easy patches.
    """
    truth = tf.cast(labels, tf.float32)
    each = tf.nn.sigmoid_cross_entropy_with_logits(truth, logits)
    if kind == "weighted_bce":
        each *= truth * weights[1] + (1 - truth) * weights[0]
    elif kind == "focal":
        each *= (1 - tf.exp(-each)) ** FOCUS
    elif kind != "bce":
        raise ValueError(f"kind must be bce, weighted_bce or focal. Received: kind={kind!r}")
    return tf.reduce_mean(each)
