"""Predict probabilities with a trained classifier."""

import keras
import numpy as np
import tensorflow as tf

from bcgan.data import batches
from bcgan.data.views import dihedral_view
from bcgan.models import fast


def make_predict_fn(network: keras.Model):
    """Return a function from uint8 patches (n, size, size, 3) to probabilities of malignancy, float32 (n,)."""
    fused = fast.fuse_model(network)

    @tf.function(reduce_retracing=True)
    def run(images):
        return tf.sigmoid(fused(batches.to_float(images), training=False)[:, 0])

    return lambda images: batches.map_in_batches(lambda part: run(tf.constant(part)), images)


def predict_probabilities(network: keras.Model, images: np.ndarray, views: int) -> np.ndarray:
    """Return mean probabilities of malignancy over the first `views` orientations; uint8 (n, size, size, 3) to (n,)."""
    predict = make_predict_fn(network)
    oriented = (np.ascontiguousarray(dihedral_view(images, index)) for index in range(views))
    return np.mean([predict(view) for view in oriented], axis=0)
