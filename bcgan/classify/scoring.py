"""Predict probabilities with a trained classifier."""

import keras
import numpy as np
import tensorflow as tf

from bcgan.data import batches
from bcgan.data.views import view
from bcgan.models import fast


def scorer(network: keras.Model):
    """A function from uint8 patches (n, side, side, 3) to probabilities of malignancy, float32 (n,)."""

    fused = fast.fuse_model(network)

    @tf.function(reduce_retracing=True)
    def run(images):
        return tf.sigmoid(fused(batches.scale(images), training=False)[:, 0])

    return lambda images: batches.by_parts(lambda part: run(tf.constant(part)), images)


def probabilities(network: keras.Model, images: np.ndarray, views: int) -> np.ndarray:
    """Mean probability of malignancy over the first `views` orientations; uint8 (n, side, side, 3) to (n,)."""
    score = scorer(network)
    return np.mean([score(np.ascontiguousarray(view(images, number))) for number in range(views)], axis=0)
