"""The same networks, quicker: a twin shares a network's weights and gives its answers up to rounding.

Keras normalises a batch in seven passes over float32 copies, TensorFlow's own kernel in one, which joins the
convolution before it at inference; the 1x1 convolution behind Table 1's upsampling commutes with it, and the average
pooling behind that needs no upsampling at all; enlarging by cubic interpolation is a product with two matrices, which
every runtime has. The networks themselves stay as the paper's table has them: what is
trained, averaged and saved is the original.
"""

import keras
import tensorflow as tf
from keras import layers


def twin(network: keras.Model) -> keras.Model:
    """A model that shares the network's variables: a step on either is a step on both.

    Args:
        network: keras.Model. Functional.

    Returns:
        keras.Model. The same inputs and outputs; its gradients are taken of the network's own variables. Not to be
        saved.
    """

    def clone(layer):
        if isinstance(layer, layers.InputLayer):
            return layers.InputLayer.from_config(layer.get_config())
        if isinstance(layer, layers.BatchNormalization) and _of_maps(layer):
            return _Fused(layer)
        # Table 1's tail at 13x13: each pixel twice, pooled by eight, is each pixel once, pooled by four.
        if layer.name == "upsample":
            return _Pass(name=layer.name, dtype=layer.dtype_policy)
        if layer.name == "average_pool":
            pool = [side // 2 for side in layer.pool_size]
            return layers.AveragePooling2D(pool, name=layer.name, dtype=layer.dtype_policy)
        if isinstance(layer, layers.Resizing) and layer.interpolation == "bicubic":
            return _Enlarged(layer)
        return layer

    return keras.models.clone_model(network, clone_function=clone, recursive=True)


class _Fused(layers.Layer):
    """A batch normalisation's variables, read and moved by TensorFlow's fused kernel."""

    def __init__(self, source: layers.BatchNormalization):
        super().__init__(name=source.name, dtype=source.dtype_policy)
        self.source = source

    def call(self, x, training=None, mask=None):
        own = self.source
        if training and not own.trainable:
            return own(x, training=False)  # the fused kernel's gradient is slower where nothing is learned
        channels = x.shape[-1]
        statistics = (tf.zeros(0), tf.zeros(0)) if training else (own.moving_mean, own.moving_variance)
        affine = (own.gamma if own.scale else tf.ones(channels), own.beta if own.center else tf.zeros(channels))
        scale, offset, *statistics = map(tf.convert_to_tensor, (*affine, *statistics))
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=statistics[0], variance=statistics[1], epsilon=own.epsilon,
            is_training=bool(training),
        )  # fmt: skip
        if training:
            count = tf.cast(tf.size(x) // channels, tf.float32)
            variance *= (count - 1) / count  # the kernel's is of a sample, Keras keeps the batch's own
            for moving, value in ((own.moving_mean, mean), (own.moving_variance, variance)):
                moving.assign(moving * own.momentum + value * (1 - own.momentum))
        return y


class _Enlarged(layers.Layer):
    """Cubic interpolation from side to side, as the rows and then the columns of a matrix have it."""

    def __init__(self, source: layers.Resizing):
        super().__init__(name=source.name, dtype=source.dtype_policy)
        sides = zip(source.input.shape[1:3], (source.height, source.width), strict=True)
        self.matrices = [tf.image.resize(tf.eye(old)[:, None], (new, 1), "bicubic")[:, 0].numpy() for old, new in sides]

    def call(self, x, mask=None):
        rows, columns = (tf.cast(matrix, x.dtype) for matrix in self.matrices)
        shape = (-1, rows.shape[1], x.shape[2] * x.shape[3])
        x = tf.reshape(rows @ tf.reshape(x, shape), (-1, rows.shape[0], x.shape[2], x.shape[3]))
        return columns @ x


class _Pass(layers.Layer):
    def call(self, x, mask=None):
        return x


def _of_maps(layer: layers.BatchNormalization) -> bool:
    return len(layer.input.shape) == 4 and not layer.renorm and not layer.synchronized
