"""Fuse the layers of a network to make it faster: the fused model shares its weights and agrees up to rounding.

- Batch normalization: Keras makes seven passes over float32 copies, TensorFlow's fused kernel makes one. A frozen batch
  normalization becomes a part of the convolution before it, in training too.
- A bias before a batch normalization, which subtracts it again, is left out; the moving mean still includes it.
- Table 1's bottlenecks: the 256 channels are only added up and read by 1x1 convolutions. The kernels of the expanding
  and the reading convolution are multiplied instead, which saves a quarter of the network's multiplications.
- Table 1's tail: the 1x1 convolution after the upsampling commutes with it, and the average pooling after that makes
  the upsampling unnecessary.
- Upsampling: a 3x3 convolution of doubled pixels is a transposed convolution of the original ones, with less than half
  of the multiplications.
- Depthwise convolutions of small maps: the gradient of the kernel is computed as a matrix product.
- Resizing is a matrix product, which all runtimes compute in the same way.

What is trained, averaged and saved is the original network, which is as the paper's table has it.
"""

from collections.abc import Callable
from functools import reduce

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from bcgan.models.kernel_gradients import conv, depthwise_conv


def fuse_model(network: keras.Model, concat_inputs: bool | None = None) -> keras.Model:
    """Return a fused model that shares the network's variables, so that a training step on either changes both.

    Args:
        network: A functional model.
        concat_inputs: Whether the maps of a sum are concatenated and read by one convolution, which copies more data
            and starts fewer kernels. Defaults to `None`: if there is a GPU, where starting kernels is slow.

    Returns:
        keras.Model. The same inputs and outputs; its gradients are with respect to the network's own variables. It
        cannot be saved.
    """
    outputs = _output_operations(network)
    concat_inputs = bool(tf.config.list_physical_devices("GPU")) if concat_inputs is None else concat_inputs

    def call(layer: keras.Operation, *args, **kwargs) -> "keras.KerasTensor | _LazySum":
        """Call a layer, but return expanded maps and sums of them as a `_LazySum` if only 1x1 convolutions read them.

        So the many channels are never computed: each convolution works on the maps before their expansion.
        """
        inputs = keras.tree.flatten(args)
        if not any(isinstance(x, _LazySum) for x in inputs):
            expands = _is_pointwise(layer) and layer.filters > layer.input.shape[-1]
            if (expands or _pads_channels(layer)) and _is_read_by_pointwise_only(layer, outputs):
                return _LazySum([(inputs[0], layer if expands else None)])
            return layer(*args, **kwargs)
        if isinstance(layer, _Identity):
            return inputs[0]
        terms = []
        for x in inputs:
            terms += x.terms if isinstance(x, _LazySum) else [(x, None)]
        if isinstance(layer, layers.Add):
            return _LazySum(terms)
        maps, expansions = zip(*terms, strict=True)
        return _FusedPointwiseConv(layer, expansions, concat_inputs)(list(maps))

    return keras.models.clone_model(network, clone_function=_replace_layer, call_function=call, recursive=True)


def _replace_layer(layer: layers.Layer) -> layers.Layer:
    """Return the layer of the fused model for a layer of the original: a faster one with the same output, or itself.

    This is the `clone_function` of `keras.models.clone_model`. If a layer is merged into another one, an identity takes
    its place.
    """
    if isinstance(layer, layers.InputLayer):
        return layers.InputLayer.from_config(layer.get_config())
    if _reads_doubled_pixels(layer):
        return _UpsamplingConv(layer)
    # The upsampling before it, and the padding between the two.
    if any(_reads_doubled_pixels(reader) for reader in _consumers(layer, through=layers.ZeroPadding2D)):
        return _Identity(name=layer.name, dtype=layer.dtype_policy)
    if norm := _following_frozen_norm(layer):
        return _FoldedConvBatchNorm(layer, norm)
    if isinstance(layer, layers.BatchNormalization) and _following_frozen_norm(_producer(layer)) is layer:
        return _Identity(name=layer.name, dtype=layer.dtype_policy)
    if isinstance(layer, layers.BatchNormalization) and _can_use_fused_kernel(layer):
        return _FusedBatchNorm(layer)
    if _feeds_norm(layer):
        return _FastConv(layer)
    # Table 1's tail at 13x13: doubled pixels pooled by eight are the original pixels pooled by four.
    if layer.name == "upsample":
        return _Identity(name=layer.name, dtype=layer.dtype_policy)
    if layer.name == "average_pool":
        pool_size = [size // 2 for size in layer.pool_size]
        return layers.AveragePooling2D(pool_size, name=layer.name, dtype=layer.dtype_policy)
    if isinstance(layer, layers.Resizing):
        return _MatrixResizing(layer)
    return layer


class _LazySum:
    """A sum that is not computed: its terms are feature maps, each with the convolution that expands it.

    A term without a convolution is added as it is, padded with zero channels.
    """

    def __init__(self, terms: list[tuple[keras.KerasTensor, layers.Conv2D | None]]):
        self.terms = terms


class _FusedPointwiseConv(layers.Layer):
    """A 1x1 convolution of a `_LazySum`: each term is convolved by the product of the expanding and this kernel."""

    def __init__(self, convolution: layers.Conv2D, expansions: tuple[layers.Conv2D | None, ...], concat_inputs: bool):
        """Take over the layers' variables; `expansions` has the convolution that expands each term, or `None`."""
        # Kernels are multiplied in their own precision, and cast afterwards.
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy, autocast=False)
        self.leaves_out_bias = isinstance(convolution, _FastConv)
        self.convolution = convolution.convolution if self.leaves_out_bias else convolution
        self.expansions, self.concat_inputs = expansions, concat_inputs

    def call(self, maps):
        """Return the convolution of the sum of `maps`, each (batch, height, width, channels) before its expansion."""
        dtype = self.compute_dtype
        matrix, kernels = self.convolution.kernel[0, 0], []
        bias = tf.zeros_like(self.convolution.bias) if self.leaves_out_bias else self.convolution.bias
        for x, expansion in zip(maps, self.expansions, strict=True):
            if expansion is None:
                kernels.append(matrix[: x.shape[-1]])  # the other rows read the zero channels
            else:
                kernels.append(expansion.kernel[0, 0] @ matrix)
                bias = bias + tf.linalg.matvec(matrix, expansion.bias, transpose_a=True)
        maps = [tf.cast(x, dtype) for x in maps]
        kernels = [tf.cast(kernel, dtype) for kernel in kernels]
        if self.concat_inputs:
            maps, kernels = [tf.concat(maps, -1)], [tf.concat(kernels, 0)]
        terms = [tf.nn.conv2d(x, kernel[None, None], 1, "VALID") for x, kernel in zip(maps, kernels, strict=True)]
        terms[0] = tf.nn.bias_add(terms[0], tf.cast(bias, dtype))
        return reduce(tf.add, terms)  # not add_n, which LiteRT's fast kernels do not support


class _FusedBatchNorm(layers.Layer):
    """A batch normalization that is computed by TensorFlow's fused kernel, with the variables of the original."""

    def __init__(self, source: layers.BatchNormalization):
        super().__init__(name=source.name, dtype=source.dtype_policy, autocast=False)  # all but the maps is float32
        producer = _producer(source)
        self.source, self.left_out_bias = source, producer.bias if _feeds_norm(producer) else None

    def call(self, x, training=None, mask=None):
        """Return the normalized maps; in training, update the moving statistics as Keras does."""
        norm, channels, x = self.source, x.shape[-1], tf.cast(x, self.compute_dtype)
        bias = tf.zeros(channels) if self.left_out_bias is None else tf.convert_to_tensor(self.left_out_bias)
        if training and not norm.trainable:
            return norm(x + tf.cast(bias, x.dtype), training=False)  # the fused kernel is slower for a frozen layer
        statistics = (tf.zeros(0), tf.zeros(0)) if training else (norm.moving_mean - bias, norm.moving_variance)
        affine = (
            norm.gamma if norm.scale else tf.ones(channels),
            (norm.beta if norm.center else tf.zeros(channels)) + _zeros_of(bias),
        )
        scale, offset, *statistics = map(tf.convert_to_tensor, (*affine, *statistics))
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=statistics[0], variance=statistics[1], epsilon=norm.epsilon,
            is_training=bool(training),
        )  # fmt: skip
        if training:
            count = tf.cast(tf.size(x) // channels, tf.float32)
            variance *= (count - 1) / count  # the kernel returns the sample variance, Keras averages the population's
            for moving, value in ((norm.moving_mean, mean + bias), (norm.moving_variance, variance)):
                moving.assign(moving * norm.momentum + value * (1 - norm.momentum))
        return y


@tf.custom_gradient
def _zeros_of(bias: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Return zeros, (channels,), and their gradient to a bias that is left out: zeros, where it would have none."""
    return tf.zeros_like(bias), tf.zeros_like


class _FastConv(layers.Layer):
    """A convolution without its bias, which the batch normalization after it would subtract again."""

    def __init__(self, convolution: layers.Conv2D):
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy)
        self.convolution = convolution

    def call(self, x, mask=None):
        """Return the convolution, in the precision of `x`."""
        convolution = self.convolution
        return conv(x, tf.cast(convolution.kernel, x.dtype), convolution.strides, convolution.padding.upper())


class _FoldedConvBatchNorm(layers.Layer):
    """A convolution and the frozen batch normalization after it, as one convolution with a bias."""

    def __init__(self, convolution: layers.Layer, norm: layers.BatchNormalization):
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy)
        self.convolution, self.norm = convolution, norm

    def call(self, x, mask=None):
        """Return the convolution by the scaled kernel, shifted; arguments as of the original layer."""
        convolution, norm = self.convolution, self.norm
        is_depthwise = isinstance(convolution, layers.DepthwiseConv2D)
        scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
        kernel = convolution.kernel * (scale[:, None] if is_depthwise else scale)
        convolve = depthwise_conv if is_depthwise else tf.nn.conv2d
        y = convolve(x, kernel, (1, *convolution.strides, 1), convolution.padding.upper())
        return tf.nn.bias_add(y, norm.beta - norm.moving_mean * scale)


class _UpsamplingConv(layers.Layer):
    """A 3x3 convolution of maps with doubled pixels, as a transposed 4x4 convolution of stride two of the maps.

    Neighboring doubled pixels are equal, so that their weights can be added.
    """

    def __init__(self, convolution: layers.Conv2D):
        # Weights are added in their own precision, and cast afterwards.
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy, autocast=False)
        self.convolution, self.output_size = convolution, convolution.output.shape[1:]

    def call(self, x, mask=None):
        """Return the convolution of the maps with doubled pixels; `x` are the maps before doubling."""
        convolution, dtype = self.convolution, self.compute_dtype
        # Along one axis, row i says which of the three weights of the 3x3 kernel make weight i of the 4x4 kernel.
        # Each weight of the 4x4 kernel is the sum of one, two or four weights of the 3x3 kernel.
        summands = [[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]
        sums = tf.constant(np.kron(summands, summands), convolution.kernel.dtype)
        sums = sums @ tf.reshape(convolution.kernel, (9, -1))
        kernel = tf.reshape(tf.cast(sums, dtype), (4, 4, *convolution.kernel.shape[2:]))
        kernel = tf.transpose(kernel, (0, 1, 3, 2))
        y = tf.nn.conv2d_transpose(tf.cast(x, dtype), kernel, (tf.shape(x)[0], *self.output_size), 2, "SAME")
        return tf.nn.bias_add(y, tf.cast(convolution.bias, dtype)) if convolution.use_bias else y


class _MatrixResizing(layers.Layer):
    """A resizing layer that multiplies rows and columns by interpolation matrices."""

    def __init__(self, source: layers.Resizing):
        super().__init__(name=source.name, dtype=source.dtype_policy)
        sizes = zip(source.input.shape[1:3], (source.height, source.width), strict=True)
        self.matrices = [resizing_matrix(old, new, source.interpolation) for old, new in sizes]

    def call(self, x, training=None, mask=None):
        rows, columns = (tf.cast(matrix, x.dtype) for matrix in self.matrices)
        shape = (-1, rows.shape[1], x.shape[2] * x.shape[3])
        x = tf.reshape(rows @ tf.reshape(x, shape), (-1, rows.shape[0], x.shape[2], x.shape[3]))
        return columns @ x


def resizing_matrix(old: int, new: int, interpolation: str) -> np.ndarray:
    """Return the matrix by which TensorFlow's resizing multiplies rows or columns; float32, (new, old)."""
    return tf.image.resize(tf.eye(old)[:, None], (new, 1), interpolation)[:, 0].numpy()


class _Identity(layers.Layer):
    """A layer that returns its input."""

    def call(self, x, mask=None):
        return x


def _is_pointwise(layer) -> bool:
    """Return whether a layer is a plain 1x1 convolution with a bias that is called once."""
    if type(layer) is not layers.Conv2D or layer.kernel_size != (1, 1) or len(layer._inbound_nodes) > 1:
        return False
    return max(*layer.strides, layer.groups) == 1 and layer.use_bias and not _has_activation(layer)


def _pads_channels(operation: keras.Operation) -> bool:
    """Return whether an operation appends channels of zeros to its input: a ResNet's parameter-free shortcut."""
    if isinstance(operation, layers.Layer) or not operation.name.startswith("concatenate"):
        return False
    _, *padding = operation._inbound_nodes[0].input_tensors
    is_zero = all(x._keras_history.operation.name.startswith("zeros_like") for x in padding)
    return is_zero and operation.axis in (-1, len(operation.output.shape) - 1)


def _is_read_by_pointwise_only(operation, outputs: set[int]) -> bool:
    """Return whether only 1x1 convolutions read an operation's output, directly, or after sums or Table 1's upsampling.

    Args:
        outputs: ids of the operations that compute outputs of a network.
    """
    readers = _consumers(operation)
    if id(operation) in outputs or not readers:
        return False
    for reader in readers:
        passes_on = _is_plain_add(reader) or reader.name == "upsample"
        if not (_is_read_by_pointwise_only(reader, outputs) if passes_on else _is_pointwise(reader)):
            return False
    return True


def _is_plain_add(layer) -> bool:
    """Return whether a layer adds inputs of the same shape."""
    return isinstance(layer, layers.Add) and len({x.shape for x in layer.input}) == 1


def _output_operations(network: keras.Model) -> set[int]:
    """Return the ids of the operations that compute outputs of a network, or of a model inside it."""
    inner = [_output_operations(layer) for layer in network.layers if isinstance(layer, keras.Model)]
    return {id(x._keras_history.operation) for x in network.outputs}.union(*inner)


def _can_use_fused_kernel(layer: layers.BatchNormalization) -> bool:
    """Return whether TensorFlow's fused kernel computes this batch normalization: of maps, on one replica."""
    return len(layer.input.shape) == 4 and not layer.renorm and not layer.synchronized


def _feeds_norm(layer: layers.Layer) -> bool:
    """Return whether a layer is a plain convolution that only a batch normalization reads."""
    if type(layer) is not layers.Conv2D or _has_activation(layer):
        return False
    readers = _consumers(layer)
    is_plain = max(layer.dilation_rate) == layer.groups == 1 and len(readers) == len(layer._inbound_nodes) == 1
    return is_plain and isinstance(readers[0], layers.BatchNormalization) and _can_use_fused_kernel(readers[0])


def _following_frozen_norm(layer: layers.Layer) -> layers.BatchNormalization | None:
    """Return the frozen batch normalization that is the only reader of a plain convolution; else `None`."""
    if type(layer) not in (layers.Conv2D, layers.DepthwiseConv2D) or layer.use_bias:
        return None
    is_plain = max(layer.dilation_rate) == getattr(layer, "groups", 1) == getattr(layer, "depth_multiplier", 1) == 1
    readers = _consumers(layer)
    norm = readers[0] if len(readers) == 1 else None
    is_frozen = isinstance(norm, layers.BatchNormalization) and not norm.trainable and norm.scale and norm.center
    return norm if is_plain and is_frozen and not _has_activation(layer) else None


def _reads_doubled_pixels(layer: layers.Layer) -> bool:
    """Return whether a layer is a plain 3x3 convolution, and the only reader, of maps with doubled pixels.

    The maps are padded as "same", or by one pixel above and to the left, which drops the last row and column.
    """
    if type(layer) is not layers.Conv2D or layer.kernel_size != (3, 3):
        return False
    is_plain = max(*layer.strides, *layer.dilation_rate, layer.groups) == 1 and not _has_activation(layer)
    is_padded, source = layer.padding == "same", _producer(layer)
    if isinstance(source, layers.ZeroPadding2D) and source.padding == ((1, 0), (1, 0)) and not is_padded:
        is_padded, source = len(_consumers(source)) == 1, _producer(source)
    is_doubled = isinstance(source, layers.UpSampling2D) and source.interpolation == "nearest" and source.size == (2, 2)
    return is_plain and is_padded and is_doubled and len(_consumers(source)) == 1


def _consumers(layer: layers.Layer, through: type | None = None) -> list[layers.Layer]:
    """Return the layers that read a layer's output; a layer of class `through` is replaced by its own readers."""
    readers = list({node.operation for node in layer._outbound_nodes})
    if through is None:
        return readers
    indirect = []
    for reader in readers:
        indirect += _consumers(reader) if isinstance(reader, through) else [reader]
    return indirect


def _producer(layer: layers.Layer) -> layers.Layer:
    """Return the layer whose output a layer reads."""
    return layer.input._keras_history.operation


def _has_activation(layer: layers.Layer) -> bool:
    return layer.activation is not keras.activations.linear
