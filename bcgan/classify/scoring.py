"""Predict probabilities with a trained classifier."""

import keras
import numpy as np
import tensorflow as tf

from bcgan.data import batches
from bcgan.data.rows import ImageRows
from bcgan.data.views import center_crop, dihedral_view, ten_crops
from bcgan.models import fast


def make_predict_fn(network: keras.Model):
    """Return a function from uint8 patches (n, size, size, 3) to probabilities, float32.

    They are those of the second of two classes, (n,), or of each class, (n, classes).
    """
    fused = fast.fuse_model(network)

    @tf.function(reduce_retracing=True)
    def run(images):
        logits = fused(batches.to_float(images), training=False)
        return tf.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else tf.nn.softmax(logits)

    return lambda images: batches.map_in_batches(lambda part: run(tf.constant(part)), images)


def predict_probabilities(
    network: keras.Model, images: np.ndarray | ImageRows, views: int, crops: str = "center"
) -> np.ndarray:
    """Return probabilities, float32, as `make_predict_fn` does: means over the first `views` orientations of a patch.

    Args:
        images: uint8, (n, size, size, 3), at least of the network's size.
        views: Number of orientations, 1 to 8; see `bcgan.data.views.dihedral_view`.
        crops: "center", the center of larger patches, or "ten", the mean over `bcgan.data.views.ten_crops` too.
    """
    predict, size = make_predict_fn(network), network.input_shape[1]

    def predict_views(batch: np.ndarray) -> np.ndarray:
        parts = ten_crops(batch, size) if crops == "ten" else [center_crop(batch, size)]
        oriented = (np.ascontiguousarray(dihedral_view(part, index)) for part in parts for index in range(views))
        return np.mean([predict(view) for view in oriented], axis=0)

    return batches.map_in_batches(predict_views, images)
