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

    @tf.function(reduce_retracing=True, autograph=False)
    def run(images):
        logits = fused(batches.to_float(images), training=False)
        return tf.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else tf.nn.softmax(logits)

    return lambda images: batches.map_in_batches(lambda part: run(tf.constant(part)), images)


def predict_probabilities(
    network: keras.Model, images: np.ndarray | ImageRows, views: int, crops: str = "center"
) -> np.ndarray:
    """Return probabilities, means over several views of each patch (test-time augmentation).

    Args:
        images: uint8, (n, size, size, 3), at least of the network's size.
        views: Number of orientations (flips and rotations), 1 to 8; the first is the patch as it is.
        crops: Of larger patches: "center", or "ten": corners and center, and their mirror images.

    Returns:
        float32, of the second of two classes, (n,), or of each class, (n, classes).
    """
    predict, size = make_predict_fn(network), network.input_shape[1]

    def predict_views(batch: np.ndarray) -> np.ndarray:
        cropped = ten_crops(batch, size) if crops == "ten" else [center_crop(batch, size)]
        oriented = (np.ascontiguousarray(dihedral_view(crop, index)) for crop in cropped for index in range(views))
        return np.mean([predict(view) for view in oriented], axis=0)

    return batches.map_in_batches(predict_views, images)
