"""Saliency maps of a classifier's logit: Grad-CAM, integrated gradients and occlusion.

Each method takes a classifier from `bcgan.models.classifier`, or several joined by `bcgan export`, and float32 patches
in [0, 1], (n, side, side, 3). It returns float32 maps, (n, side, side): positive for pixels that support the explained
class, negative for pixels that support the others. The explained class is the second of two; `explain_class` returns
the classifier of another one.
"""

import itertools
from collections.abc import Callable

import cv2
import keras
import numpy as np
import tensorflow as tf

from bcgan.data import batches

MIN_MAP_SIZE, MIN_MAP_CHANNELS = 7, 16  # of a map that Grad-CAM may be computed on
INTEGRATION_STEPS = 24  # from white glass to the patch
OCCLUSION_SQUARE, OCCLUSION_STRIDE = 1 / 5, 1 / 10  # shares of the patch's side: 10 and 5 of 50 pixels
BATCH_SIZE = 64

# From a batch to a feature map and the logit.
MapAndLogit = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class ClassLogit(keras.layers.Layer):
    """The log odds of a class against the rest, (batch, 1), from logits of two classes or of each of more."""

    def __init__(self, label: int, **options):
        super().__init__(dtype="float32", **options)
        self.label = label

    def call(self, logits):
        """Return the log odds; logits are (batch, 1) or (batch, classes)."""
        if logits.shape[-1] == 1:
            return logits if self.label else -logits
        other_logits = [logits[:, label : label + 1] for label in range(logits.shape[-1]) if label != self.label]
        other_logits = keras.ops.logsumexp(keras.ops.concatenate(other_logits, 1), 1, keepdims=True)
        return logits[:, self.label : self.label + 1] - other_logits


def explain_class(network: keras.Model, label: int) -> keras.Model:
    """Return the network whose logit is that of a class against the rest, to be explained; it shares the weights."""
    if network.output_shape[-1] == 1 and label == 1:
        return network
    logit = ClassLogit(label, name="class_logit")(network.outputs[0])
    return keras.Model(network.inputs, logit, name=network.name)


def grad_cam(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Explain by Grad-CAM: the channels of the last large map, weighted by the logit's mean gradient.

    Unlike Selvaraju et al. (2017), there is no ReLU: the sign is meaningful. Joined networks give their members' mean.

    Raises:
        ValueError: If the network has no map of at least 7x7 positions and 16 channels.
    """
    if cropping := [layer for layer in network.layers if isinstance(layer, keras.layers.Cropping2D)]:
        return _grad_cam_of_center(network, cropping[0], images)
    members = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    if len(members) > 1 and not _large_map_layers(network):
        if isinstance(network.layers[-1], ClassLogit):
            members = [explain_class(member, network.layers[-1].label) for member in members]
        return np.mean([grad_cam(member, images) for member in members], axis=0)
    compute_map_and_logit, side = _make_map_and_logit_fn(network), images.shape[1]

    def explain_batch(batch: tf.Tensor) -> np.ndarray:
        """Return the maps of a batch, enlarged to the patches' size, (batch, side, side)."""
        with tf.GradientTape() as tape:
            maps, logit = compute_map_and_logit(batch)
        weights = tf.reduce_mean(tape.gradient(logit, maps), (1, 2), keepdims=True)
        heat_maps = tf.cast(tf.reduce_sum(maps * weights, -1), tf.float32).numpy()
        return np.stack([cv2.resize(heat_map, (side, side), interpolation=cv2.INTER_LINEAR) for heat_map in heat_maps])

    return _map_batches(explain_batch, images)


def _grad_cam_of_center(network: keras.Model, cropping: keras.Layer, images: np.ndarray) -> np.ndarray:
    """Explain a network that crops patches to their center; the map, (n, side, side), is 0 around it."""
    inner = keras.Model(cropping.output, network.outputs[0])
    (top, bottom), (left, right) = cropping.cropping
    center = images[:, top : images.shape[1] - bottom, left : images.shape[2] - right]
    return np.pad(grad_cam(inner, center), ((0, 0), (top, bottom), (left, right)))


def integrated_gradients(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Explain by integrated gradients (Sundararajan et al. 2017), summed over the color channels.

    The baseline is white glass: a map sums up to the patch's logit minus that of white glass.
    """
    points = (tf.range(INTEGRATION_STEPS, dtype=tf.float32) + 0.5) / INTEGRATION_STEPS

    @tf.function(reduce_retracing=True, autograph=False)
    def explain_patch(image):
        """Return the map of one patch, (side, side)."""
        # From white, 1.0, to the patch: the middles of INTEGRATION_STEPS equal steps.
        path = 1.0 + points[:, None, None, None] * (image - 1.0)
        with tf.GradientTape() as tape:
            tape.watch(path)
            logits = network(path, training=False)
        return tf.reduce_sum(tf.reduce_mean(tape.gradient(logits, path), 0) * (image - 1.0), -1)

    return np.stack([explain_patch(tf.constant(image)).numpy() for image in images])


def occlusion(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Explain by occlusion (Zeiler and Fergus 2014): the fall of the logit when a square has the patch's mean color.

    A pixel's value is the mean over the squares that cover it. The number of squares does not depend on the patch's
    size.
    """
    side = images.shape[1]
    compute_logits = logits(network)
    square, stride = round(OCCLUSION_SQUARE * side), round(OCCLUSION_STRIDE * side)
    starts = range(0, side - 1, stride)
    baseline, mean = compute_logits(images), images.mean((1, 2), keepdims=True)
    total, counts = np.zeros(images.shape[:3], np.float32), np.zeros((side, side), np.float32)
    for top, left in itertools.product(starts, starts):
        rows, columns = slice(top, top + square), slice(left, left + square)
        occluded = images.copy()
        occluded[:, rows, columns] = mean
        total[:, rows, columns] += (baseline - compute_logits(occluded))[:, None, None]
        counts[rows, columns] += 1
    return total / counts


METHODS = {"grad_cam": grad_cam, "integrated_gradients": integrated_gradients, "occlusion": occlusion}


def logits(network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from float32 patches to logits, (n,)."""

    @tf.function(reduce_retracing=True, autograph=False)
    def compute_logits(batch):
        """Return the logits of a batch."""
        return network(batch, training=False)[:, 0]

    return lambda images: _map_batches(compute_logits, images)


def _map_batches(function, images: np.ndarray) -> np.ndarray:
    """Return a function's results on all patches, computed in batches, which it gets as float32 tensors."""
    return batches.map_in_batches(lambda batch: function(tf.constant(batch)), images, BATCH_SIZE)


def _large_map_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with a map that is large enough for Grad-CAM, without those of nested networks."""
    layers = [layer for layer in network.layers if not isinstance(layer, (keras.Model, keras.layers.InputLayer))]
    return [layer for layer in layers if _is_large_map(layer.output.shape)]


def _is_large_map(shape: tuple[int | None, ...]) -> bool:
    """Return whether an output of this shape is a map that Grad-CAM may be computed on."""
    return len(shape) == 4 and shape[1] >= MIN_MAP_SIZE and shape[-1] >= MIN_MAP_CHANNELS


def _make_map_and_logit_fn(network: keras.Model) -> MapAndLogit:
    """Return a function from a batch of patches to the feature map for Grad-CAM and the logit.

    The map is the last one that is large enough, of the network itself or else of the one network nested in it.

    Args:
        network: A sequence of layers with one output, the logit.

    Raises:
        ValueError: If there is no such map.
    """
    map_layers = _large_map_layers(network)
    if map_layers:
        model = keras.Model(network.inputs, [map_layers[-1].output, network.outputs[0]])
        return lambda batch: model(batch, training=False)
    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    nested_indices = [index for index, layer in enumerate(layers) if isinstance(layer, keras.Model)]
    if len(nested_indices) != 1 or len(layers[nested_indices[0]].outputs) != 1:
        raise ValueError(f"{network.name} has no map that Grad-CAM can be computed on.")
    nested_index = nested_indices[0]
    nested_fn = _make_map_and_logit_fn(layers[nested_index])

    def compute_map_and_logit(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Apply the layers before, the nested network, and the layers after it."""
        for layer in layers[:nested_index]:
            batch = layer(batch)
        maps, result = nested_fn(batch)
        for layer in layers[nested_index + 1 :]:
            result = layer(result)
        return maps, result

    return compute_map_and_logit
