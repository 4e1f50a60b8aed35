"""The same networks, quicker: a fused model shares a network's weights and gives its answers up to rounding.

Keras normalises a batch in seven passes over float32 copies, TensorFlow's own kernel in one, which joins the
convolution before it at inference; one that is frozen is a part of the convolution before it, in training too. The 256
channels of Table 1's blocks are only added up and read by 1x1 convolutions: no block expands its 64, and the kernels
that would make and read the others are multiplied instead, which leaves three quarters of the network's products. The
1x1 convolution behind the upsampling commutes with it, and the average pooling behind that needs no upsampling at all;
a 3x3 convolution of doubled maps is a transposed one of the maps, with less than half of the products. The gradient of
a depthwise kernel is, where maps are small, a product of matrices, and so is resizing, for every runtime.
The networks themselves stay as the paper's table has them: what is trained, averaged and saved is the original.
"""

from functools import reduce

import keras
import numpy as np
import tensorflow as tf
from keras import layers

SMALL = 7  # side of the maps up to which all pairs of their places cost less than TensorFlow's own kernel


def fuse_model(network: keras.Model, concat_inputs: bool | None = None) -> keras.Model:
    """A model that shares the network's variables: a step on either is a step on both.

    Args:
        network: keras.Model. Functional.
        concat_inputs: bool. Read maps that were not added up side by side, in one convolution: more is copied, and
            fewer kernels begin. Defaults to None: on a GPU, which waits for them.

    Returns:
        keras.Model. The same inputs and outputs; its gradients are taken of the network's own variables. Not to be
        saved.
    """

    def clone(layer):
        if isinstance(layer, layers.InputLayer):
            return layers.InputLayer.from_config(layer.get_config())
        if _doubled_before(layer):
            return _Grown(layer)
        if any(_doubled_before(reader) for reader in _readers(layer, through=layers.ZeroPadding2D)):
            return _Pass(name=layer.name, dtype=layer.dtype_policy)
        if normalisation := _frozen_behind(layer):
            return _Folded(layer, normalisation)
        if isinstance(layer, layers.BatchNormalization) and _frozen_behind(_before(layer)) is layer:
            return _Pass(name=layer.name, dtype=layer.dtype_policy)
        if isinstance(layer, layers.BatchNormalization) and _of_maps(layer):
            return _Fused(layer)
        # Table 1's tail at 13x13: each pixel twice, pooled by eight, is each pixel once, pooled by four.
        if layer.name == "upsample":
            return _Pass(name=layer.name, dtype=layer.dtype_policy)
        if layer.name == "average_pool":
            pool = [side // 2 for side in layer.pool_size]
            return layers.AveragePooling2D(pool, name=layer.name, dtype=layer.dtype_policy)
        if isinstance(layer, layers.Resizing):
            return _Resized(layer)
        return layer

    ends = _ends(network)
    concat_inputs = bool(tf.config.list_physical_devices("GPU")) if concat_inputs is None else concat_inputs

    def call(layer, *args, **kwargs):
        """Leaves out what need not be made, and has its readers read what it would have been made from."""
        inputs = keras.tree.flatten(args)
        if not any(isinstance(x, _Terms) for x in inputs):
            expands = _pointwise(layer) and layer.filters > layer.input.shape[-1]
            if (expands or _widens(layer)) and _only_multiplied(layer, ends):
                return _Terms([(inputs[0], layer if expands else None)])
            return layer(*args, **kwargs)
        if isinstance(layer, _Pass):
            return inputs[0]
        terms = [term for x in inputs for term in (x.terms if isinstance(x, _Terms) else [(x, None)])]
        if isinstance(layer, layers.Add):
            return _Terms(terms)
        maps, expansions = zip(*terms, strict=True)
        return _Read(layer, expansions, concat_inputs)(list(maps))

    return keras.models.clone_model(network, clone_function=clone, call_function=call, recursive=True)


class _Terms:
    """Maps in place of their sum, each with the convolution that would expand it; None: it is a term as it is, and has
    zeros behind its channels where the sum has more."""

    def __init__(self, terms: list[tuple[keras.KerasTensor, layers.Conv2D | None]]):
        self.terms = terms


class _Read(layers.Layer):
    """A 1x1 convolution of maps that were expanded by others and added up: one of each, by the product of both."""

    def __init__(self, convolution: layers.Conv2D, expansions: tuple[layers.Conv2D | None, ...], concat_inputs: bool):
        # Kernels are multiplied in their own precision, and cast then.
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy, autocast=False)
        self.convolution, self.expansions, self.concat_inputs = convolution, expansions, concat_inputs

    def call(self, maps):
        wrapped, precision = self.convolution, self.compute_dtype
        reader, bias, kernels = wrapped.kernel[0, 0], wrapped.bias, []
        for x, expansion in zip(maps, self.expansions, strict=True):
            kernels.append(reader[: x.shape[-1]] if expansion is None else expansion.kernel[0, 0] @ reader)
            bias = bias if expansion is None else bias + tf.linalg.matvec(reader, expansion.bias, transpose_a=True)
        maps, kernels = ([tf.cast(tensor, precision) for tensor in many] for many in (maps, kernels))
        if self.concat_inputs:
            maps, kernels = [tf.concat(maps, -1)], [tf.concat(kernels, 0)]
        read = [tf.nn.conv2d(x, kernel[None, None], 1, "VALID") for x, kernel in zip(maps, kernels, strict=True)]
        read[0] = tf.nn.bias_add(read[0], tf.cast(bias, precision))
        return reduce(tf.add, read)  # not add_n, which LiteRT's quick kernels do not know


class _Fused(layers.Layer):
    """A batch normalisation's variables, read and moved by TensorFlow's fused kernel."""

    def __init__(self, source: layers.BatchNormalization):
        super().__init__(name=source.name, dtype=source.dtype_policy)
        self.source = source

    def call(self, x, training=None, mask=None):
        wrapped = self.source
        if training and not wrapped.trainable:
            return wrapped(x, training=False)  # the fused kernel's gradient is slower where nothing is learned
        channels = x.shape[-1]
        statistics = (tf.zeros(0), tf.zeros(0)) if training else (wrapped.moving_mean, wrapped.moving_variance)
        affine = (
            wrapped.gamma if wrapped.scale else tf.ones(channels),
            wrapped.beta if wrapped.center else tf.zeros(channels),
        )
        scale, offset, *statistics = map(tf.convert_to_tensor, (*affine, *statistics))
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=statistics[0], variance=statistics[1], epsilon=wrapped.epsilon,
            is_training=bool(training),
        )  # fmt: skip
        if training:
            count = tf.cast(tf.size(x) // channels, tf.float32)
            variance *= (count - 1) / count  # the kernel's is of a sample, Keras keeps the batch's own
            for moving, value in ((wrapped.moving_mean, mean), (wrapped.moving_variance, variance)):
                moving.assign(moving * wrapped.momentum + value * (1 - wrapped.momentum))
        return y


class _Folded(layers.Layer):
    """A convolution and the frozen normalisation behind it, as one convolution with a bias."""

    def __init__(self, convolution: layers.Layer, normalisation: layers.BatchNormalization):
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy)
        self.convolution, self.normalisation = convolution, normalisation

    def call(self, x, mask=None):
        wrapped, norm, deep = self.convolution, self.normalisation, isinstance(self.convolution, layers.DepthwiseConv2D)
        scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
        kernel = wrapped.kernel * (scale[:, None] if deep else scale)
        convolve = _depthwise if deep else tf.nn.conv2d
        y = convolve(x, kernel, (1, *wrapped.strides, 1), wrapped.padding.upper())
        return tf.nn.bias_add(y, norm.beta - norm.moving_mean * scale)


def _depthwise(x: tf.Tensor, kernel: tf.Tensor, strides: tuple[int, ...], padding: str) -> tf.Tensor:
    if padding != "SAME" or max(x.shape[1:3]) > SMALL:
        return tf.nn.depthwise_conv2d(x, kernel, strides, padding)

    @tf.custom_gradient
    def convolved(x, kernel):
        y = tf.nn.depthwise_conv2d(x, kernel, strides, padding)

        def gradient(dy):
            dx = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, strides=strides, padding=padding
            )
            return dx, _kernel_gradient(x, dy, kernel.shape, strides)

        return y, gradient

    return convolved(x, kernel)


def _kernel_gradient(x: tf.Tensor, dy: tf.Tensor, shape: tf.TensorShape, strides: tuple[int, ...]) -> tf.Tensor:
    """Every place of the input times every place of the output, summed over the batch, channel by channel; then the
    pairs of places that a tap of the kernel joins."""
    channels = x.shape[3]
    taps = [_taps(*sizes) for sizes in zip(x.shape[1:3], dy.shape[1:3], shape[:2], strides[1:3], strict=True)]
    joined = np.einsum("pia,qjb->pqijab", *taps).reshape(-1, shape[0] * shape[1])
    input_maps, gradient_maps = (
        tf.reshape(tf.transpose(maps, (3, 1, 2, 0)), (channels, -1, tf.shape(x)[0])) for maps in (x, dy)
    )
    pairs = tf.reshape(tf.matmul(input_maps, gradient_maps, transpose_b=True), (channels, -1))
    return tf.reshape(tf.transpose(pairs @ tf.cast(joined, x.dtype)), shape)


def _taps(input_size: int, output_size: int, kernel: int, stride: int) -> np.ndarray:
    """1 where a tap takes a place of the output from a place of the input, along one side, padded as "same"."""
    before = max((output_size - 1) * stride + kernel - input_size, 0) // 2
    places, outputs, taps = np.ogrid[:input_size, :output_size, :kernel]
    return (places == outputs * stride + taps - before).astype(np.float32)


class _Grown(layers.Layer):
    """A 3x3 convolution of maps of which every pixel was doubled: a transposed 4x4 one, of stride two, of the maps.

    Two neighbours among the doubled pixels are the same one, so that their weights add up.
    """

    def __init__(self, convolution: layers.Conv2D):
        # Weights are added up in their own precision, and cast then.
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy, autocast=False)
        self.convolution, self.size = convolution, convolution.output.shape[1:]

    def call(self, x, mask=None):
        wrapped, precision = self.convolution, self.compute_dtype
        # A tap of the larger kernel is the sum of one, two or four of the smaller one's.
        side = [[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]
        added = tf.constant(np.kron(side, side), wrapped.kernel.dtype) @ tf.reshape(wrapped.kernel, (9, -1))
        kernel = tf.reshape(tf.cast(added, precision), (4, 4, *wrapped.kernel.shape[2:]))
        kernel = tf.transpose(kernel, (0, 1, 3, 2))
        y = tf.nn.conv2d_transpose(tf.cast(x, precision), kernel, (tf.shape(x)[0], *self.size), 2, "SAME")
        return tf.nn.bias_add(y, tf.cast(wrapped.bias, precision)) if wrapped.use_bias else y


class _Resized(layers.Layer):
    """Interpolation from side to side, as the rows and then the columns of a matrix have it."""

    def __init__(self, source: layers.Resizing):
        super().__init__(name=source.name, dtype=source.dtype_policy)
        sizes = zip(source.input.shape[1:3], (source.height, source.width), strict=True)
        self.matrices = [
            tf.image.resize(tf.eye(old)[:, None], (new, 1), source.interpolation)[:, 0].numpy() for old, new in sizes
        ]

    def call(self, x, training=None, mask=None):
        rows, columns = (tf.cast(matrix, x.dtype) for matrix in self.matrices)
        shape = (-1, rows.shape[1], x.shape[2] * x.shape[3])
        x = tf.reshape(rows @ tf.reshape(x, shape), (-1, rows.shape[0], x.shape[2], x.shape[3]))
        return columns @ x


class _Pass(layers.Layer):
    def call(self, x, mask=None):
        return x


def _pointwise(layer) -> bool:
    """Whether this is a plain 1x1 convolution with a bias, of one map alone."""
    if type(layer) is not layers.Conv2D or layer.kernel_size != (1, 1) or len(layer._inbound_nodes) > 1:
        return False
    return max(*layer.strides, layer.groups) == 1 and layer.use_bias and not _activated(layer)


def _widens(operation) -> bool:
    """Whether zero channels are appended here (`bcgan.models.shortcut`)."""
    if isinstance(operation, layers.Layer) or not operation.name.startswith("concatenate"):
        return False
    _, *padding = operation._inbound_nodes[0].input_tensors
    zeros = all(x._keras_history.operation.name.startswith("zeros_like") for x in padding)
    return zeros and operation.axis in (-1, len(operation.output.shape) - 1)


def _only_multiplied(operation, ends: set[int]) -> bool:
    """Whether 1x1 convolutions alone read what comes out, as it is or added up or, in Table 1's tail, enlarged.

    Args:
        ends: ids of the operations whose output is a network's own.
    """
    readers = _readers(operation)
    return id(operation) not in ends and bool(readers) and all(
        _only_multiplied(reader, ends) if _adds(reader) or reader.name == "upsample" else _pointwise(reader)
        for reader in readers
    )  # fmt: skip


def _adds(layer) -> bool:
    return isinstance(layer, layers.Add) and len({x.shape for x in layer.input}) == 1


def _ends(network: keras.Model) -> set[int]:
    inner = [_ends(layer) for layer in network.layers if isinstance(layer, keras.Model)]
    return {id(x._keras_history.operation) for x in network.outputs}.union(*inner)


def _of_maps(layer: layers.BatchNormalization) -> bool:
    return len(layer.input.shape) == 4 and not layer.renorm and not layer.synchronized


def _frozen_behind(layer: layers.Layer) -> layers.BatchNormalization | None:
    """The frozen normalisation that alone reads a plain convolution, if there is one."""
    if type(layer) not in (layers.Conv2D, layers.DepthwiseConv2D) or layer.use_bias:
        return None
    plain = max(layer.dilation_rate) == getattr(layer, "groups", 1) == getattr(layer, "depth_multiplier", 1) == 1
    readers = _readers(layer)
    norm = readers[0] if len(readers) == 1 else None
    frozen = isinstance(norm, layers.BatchNormalization) and not norm.trainable and norm.scale and norm.center
    return norm if plain and frozen and not _activated(layer) else None


def _doubled_before(layer: layers.Layer) -> bool:
    """Whether a layer is a plain 3x3 convolution of pixels that were doubled for it alone: either padded as "same", or
    by a pixel above and to the left, which leaves out the last row and column."""
    if type(layer) is not layers.Conv2D or layer.kernel_size != (3, 3):
        return False
    plain = max(*layer.strides, *layer.dilation_rate, layer.groups) == 1 and not _activated(layer)
    padded, before = layer.padding == "same", _before(layer)
    if isinstance(before, layers.ZeroPadding2D) and before.padding == ((1, 0), (1, 0)) and not padded:
        padded, before = len(_readers(before)) == 1, _before(before)
    upsampled = isinstance(before, layers.UpSampling2D) and before.interpolation == "nearest" and before.size == (2, 2)
    return plain and padded and upsampled and len(_readers(before)) == 1


def _readers(layer: layers.Layer, through: type | None = None) -> list[layers.Layer]:
    """The layers that read a layer; what reads those of a kind in between, where one is named."""
    readers = list({node.operation for node in layer._outbound_nodes})
    if through:
        readers = [
            reader
            for reader_layer in readers
            for reader in (_readers(reader_layer) if isinstance(reader_layer, through) else [reader_layer])
        ]
    return readers


def _before(layer: layers.Layer) -> layers.Layer:
    return layer.input._keras_history.operation


def _activated(layer: layers.Layer) -> bool:
    return layer.activation is not keras.activations.linear
