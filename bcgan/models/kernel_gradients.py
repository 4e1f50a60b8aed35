"""Convolutions whose kernels' gradients are matrix products, which is faster where maps are small.

The gradient of a kernel sums over the batch and the pixels of the maps. TensorFlow's is made for large ones.
"""

import numpy as np
import tensorflow as tf

MAX_SIDE = 7  # of maps: up to it, matrix products are faster


def conv(x: tf.Tensor, kernel: tf.Tensor, strides: tuple[int, int], padding: str) -> tf.Tensor:
    """Apply a convolution. On a processor, the gradient of a 1x1 or 3x3 kernel is a matrix product if maps are small.

    Args:
        x: (n, height, width, channels).
        kernel: (side, side, channels, filters), of the same dtype.
        strides: Along y and x.
        padding: "SAME" or "VALID".
    """
    is_supported = kernel.shape[:2] == (1, 1) or (kernel.shape[:2] == (3, 3) and padding == "SAME")
    is_small = max(x.shape[1:3]) <= MAX_SIDE and max(strides) == 1
    if not (is_supported and is_small) or tf.config.list_physical_devices("GPU"):
        return tf.nn.conv2d(x, kernel, strides, padding)

    @tf.custom_gradient
    def convolved(x, kernel):
        """Return the convolution, and a function from its gradient to those of x and of the kernel."""

        def gradient(dy):
            dx = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, strides=[1, 1, 1, 1], padding=padding
            )
            return dx, _kernel_gradient(x, dy, kernel.shape)

        return tf.nn.conv2d(x, kernel, 1, padding), gradient

    return convolved(x, kernel)


def _kernel_gradient(x: tf.Tensor, dy: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Return the gradient of a kernel of this shape, 1x1 or 3x3, with stride one, padded as "same".

    For each position of the kernel, it is the product of the maps, shifted by that position, with the gradient of the
    result, summed over the batch and the pixels.

    Args:
        x: The maps, (n, height, width, channels).
        dy: The gradient of the result, (n, height, width, filters).
        shape: (side, side, channels, filters).
    """
    side, _, channels, filters = shape
    height, width = x.shape[1:3]
    margin = side // 2
    padded = tf.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0))) if margin else x
    gradient = tf.reshape(dy, (-1, filters))
    position_gradients = [
        tf.matmul(
            tf.reshape(padded[:, row : row + height, column : column + width], (-1, channels)),
            gradient,
            transpose_a=True,
        )
        for row in range(side)
        for column in range(side)
    ]
    return tf.reshape(tf.stack(position_gradients), shape)


def depthwise_conv(x: tf.Tensor, kernel: tf.Tensor, strides: tuple[int, ...], padding: str) -> tf.Tensor:
    """Apply a depthwise convolution, with a faster gradient of the kernel for small maps.

    Args:
        x: (n, height, width, channels).
        kernel: (side, side, channels, 1), of the same dtype.
        strides: Of all four axes, (1, y, x, 1).
        padding: "SAME" or "VALID".
    """
    if padding != "SAME" or max(x.shape[1:3]) > MAX_SIDE:
        return tf.nn.depthwise_conv2d(x, kernel, strides, padding)

    @tf.custom_gradient
    def convolved(x, kernel):
        """Return the convolution, and a function from its gradient to those of x and of the kernel."""
        y = tf.nn.depthwise_conv2d(x, kernel, strides, padding)

        def gradient(dy):
            dx = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, strides=strides, padding=padding
            )
            return dx, _depthwise_kernel_gradient(x, dy, kernel.shape, strides)

        return y, gradient

    return convolved(x, kernel)


def _depthwise_kernel_gradient(
    x: tf.Tensor, dy: tf.Tensor, shape: tf.TensorShape, strides: tuple[int, ...]
) -> tf.Tensor:
    """Return the gradient of a depthwise kernel, padded as "same".

    For each channel, the products of every input pixel with every gradient pixel are summed over the batch. Each weight
    of the kernel then sums the pairs of pixels that it connects.

    Args:
        x: The maps, (n, height, width, channels).
        dy: The gradient of the result, (n, height, width, channels) of that.
        shape: Of the kernel, (side, side, channels, 1).
        strides: Of all four axes.
    """
    channels = x.shape[3]
    sizes = zip(x.shape[1:3], dy.shape[1:3], shape[:2], strides[1:3], strict=True)
    rows, columns = (_tap_indicators(*axis_sizes) for axis_sizes in sizes)
    # 1 where weight (a, b) connects pixel (p, q) of the input with pixel (i, j) of the result.
    connected = np.einsum("pia,qjb->pqijab", rows, columns).reshape(-1, shape[0] * shape[1])
    input_maps, gradient_maps = (
        tf.reshape(tf.transpose(maps, (3, 1, 2, 0)), (channels, -1, tf.shape(x)[0])) for maps in (x, dy)
    )
    pairs = tf.reshape(tf.matmul(input_maps, gradient_maps, transpose_b=True), (channels, -1))
    return tf.reshape(tf.transpose(pairs @ tf.cast(connected, x.dtype)), shape)


def _tap_indicators(input_size: int, output_size: int, kernel: int, stride: int) -> np.ndarray:
    """Return which input pixel each weight of a kernel multiplies for each output pixel, along one axis.

    The convolution is padded as "same".

    Args:
        input_size, output_size: Pixels along the axis.
        kernel: Weights along the axis.

    Returns:
        float32, (input_size, output_size, kernel). 1 where a weight multiplies that input pixel, else 0.
    """
    padding = max((output_size - 1) * stride + kernel - input_size, 0) // 2
    inputs, outputs, taps = np.ogrid[:input_size, :output_size, :kernel]
    return (inputs == outputs * stride + taps - padding).astype(np.float32)
