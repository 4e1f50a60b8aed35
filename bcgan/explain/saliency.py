"""Where in a patch the evidence lies: Grad-CAM, integrated gradients and occlusion, of the same logit.

Each takes a classifier as `bcgan.models.classifier` builds it, or several joined by `bcgan export`, and float32 patches
in [0, 1], (n, side, side, 3), and gives float32 maps, (n, side, side): positive for pixels that support malignancy,
negative for pixels that support benignity.
"""

from collections.abc import Callable

import cv2
import keras
import numpy as np
import tensorflow as tf

from bcgan.data import batches

LEAST_SIDE, LEAST_CHANNELS = 7, 16  # of a map that Grad-CAM may be computed on
STEPS = 24  # points on the way from white glass to the patch
SQUARE, STRIDE = 10, 5  # pixels of what is covered, and between covered places
BATCH = 64

Tapped = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def grad_cam(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Channels of the last large map, weighted by the logit's mean gradient (Selvaraju et al. 2017), without the ReLU:
    the sign is kept. The mean over the members where networks are joined.

    Raises:
        ValueError: the network has no map of at least 7x7 places and 16 channels.
    """
    members = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    if len(members) > 1 and not _maps(network):
        return np.mean([grad_cam(member, images) for member in members], axis=0)
    tapped, side = _tapped(network), images.shape[1]

    def cam(batch: tf.Tensor) -> np.ndarray:
        with tf.GradientTape() as tape:
            maps, logit = tapped(batch)
        weights = tf.reduce_mean(tape.gradient(logit, maps), (1, 2), keepdims=True)
        maps_of_images = tf.cast(tf.reduce_sum(maps * weights, -1), tf.float32).numpy()
        return np.stack(
            [cv2.resize(heat_map, (side, side), interpolation=cv2.INTER_LINEAR) for heat_map in maps_of_images]
        )

    return _batched(cam, images)


def integrated_gradients(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """The gradient averaged from white glass to the patch, times the difference (Sundararajan et al. 2017), summed over
    the colours: a map sums up to the patch's logit less that of white glass."""
    points = (tf.range(STEPS, dtype=tf.float32) + 0.5) / STEPS

    @tf.function(reduce_retracing=True)
    def one(image):
        path = 1.0 + points[:, None, None, None] * (image - 1.0)
        with tf.GradientTape() as tape:
            tape.watch(path)
            logits = network(path, training=False)
        return tf.reduce_sum(tf.reduce_mean(tape.gradient(logits, path), 0) * (image - 1.0), -1)

    return np.stack([one(tf.constant(image)).numpy() for image in images])


def occlusion(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """How far the logit falls where a square is covered with the patch's mean colour (Zeiler and Fergus 2014), averaged
    over the squares that cover a pixel."""
    side = images.shape[1]
    run = logits(network)
    corners = [(top, left) for top in range(0, side - 1, STRIDE) for left in range(0, side - 1, STRIDE)]
    baseline, mean = run(images), images.mean((1, 2), keepdims=True)
    total, times = np.zeros(images.shape[:3], np.float32), np.zeros((side, side), np.float32)
    for top, left in corners:
        covered = images.copy()
        covered[:, top : top + SQUARE, left : left + SQUARE] = mean
        total[:, top : top + SQUARE, left : left + SQUARE] += (baseline - run(covered))[:, None, None]
        times[top : top + SQUARE, left : left + SQUARE] += 1
    return total / times


METHODS = {"grad_cam": grad_cam, "integrated_gradients": integrated_gradients, "occlusion": occlusion}


def logits(network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """A function from float32 patches to logits, (n,)."""

    @tf.function(reduce_retracing=True)
    def run(batch):
        return network(batch, training=False)[:, 0]

    return lambda images: _batched(run, images)


def _batched(function, images: np.ndarray) -> np.ndarray:
    return batches.by_parts(lambda part: function(tf.constant(part)), images, BATCH)


def _maps(network: keras.Model) -> list:
    """Layers of the network itself, not of networks within it, whose output Grad-CAM may be computed on."""
    return [
        layer
        for layer in network.layers
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer))
        and len(shape := layer.output.shape) == 4
        and shape[1] >= LEAST_SIDE
        and shape[-1] >= LEAST_CHANNELS
    ]


def _tapped(network: keras.Model) -> Tapped:
    """From a batch to the last map and the logit; the map may lie in a network within the network."""
    if maps := _maps(network):
        both = keras.Model(network.inputs, [maps[-1].output, network.outputs[0]])
        return lambda batch: both(batch, training=False)
    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    inner = [place for place, layer in enumerate(layers) if isinstance(layer, keras.Model)]
    if len(inner) != 1 or len(layers[inner[0]].outputs) != 1:
        raise ValueError(f"{network.name} has no map that Grad-CAM can be computed on.")
    tapped = _tapped(layers[inner[0]])

    def run(batch):
        for layer in layers[: inner[0]]:
            batch = layer(batch)
        maps, result = tapped(batch)
        for layer in layers[inner[0] + 1 :]:
            result = layer(result)
        return maps, result

    return run
