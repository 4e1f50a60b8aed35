"""Gradients of kernels as matrix products are those of TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from bcgan.models import kernel_gradients


def gradients(convolve, x: tf.Tensor, kernel: tf.Tensor) -> list[np.ndarray]:
    """Return the output of a convolution, and the gradients of the sum of its squares."""
    with tf.GradientTape() as tape:
        tape.watch((x, kernel))
        y = convolve(x, kernel)
        loss = tf.reduce_sum(y**2)
    return [y.numpy(), *(gradient.numpy() for gradient in tape.gradient(loss, (x, kernel)))]


@pytest.mark.parametrize(("padding", "stride"), [("SAME", 1), ("SAME", 2), ("VALID", 1), ("VALID", 2)])
@pytest.mark.parametrize(("side", "kernel"), [(7, 1), (7, 3), (7, 5), (4, 3), (3, 1), (13, 3)])
def test_gradient_of_a_kernel_is_tensorflows(monkeypatch, side, kernel, stride, padding):
    rng = np.random.default_rng(2)
    x = tf.constant(rng.standard_normal((3, side, side + side % 2, 4)), tf.float32)
    weights = tf.constant(rng.standard_normal((kernel, kernel, 4, 6)), tf.float32)
    expected = gradients(lambda x, kernel: tf.nn.conv2d(x, kernel, stride, padding), x, weights)
    products = []
    matmul = tf.matmul
    monkeypatch.setattr(tf, "matmul", lambda *args, **kwargs: products.append(1) or matmul(*args, **kwargs))
    computed = gradients(lambda x, kernel: kernel_gradients.conv(x, kernel, (stride, stride), padding), x, weights)
    for values, plain in zip(computed, expected, strict=True):
        np.testing.assert_allclose(values, plain, rtol=1e-4, atol=1e-4)
    is_product = side < 7 and stride == 1 and (kernel == 1 or (kernel == 3 and padding == "SAME"))
    assert len(products) == is_product * kernel**2


@pytest.mark.parametrize(("side", "kernel", "stride"), [(7, 5, 1), (7, 5, 2), (4, 3, 1), (6, 3, 2), (3, 5, 1)])
def test_gradient_of_a_depthwise_kernel_is_tensorflows(side, kernel, stride):
    rng, strides = np.random.default_rng(2), (1, stride, stride, 1)
    x = tf.constant(rng.standard_normal((3, side, side, 4)), tf.float32)
    weights = tf.constant(rng.standard_normal((kernel, kernel, 4, 1)), tf.float32)
    computed = []
    for convolve in (tf.nn.depthwise_conv2d, kernel_gradients.depthwise_conv):
        with tf.GradientTape() as tape:
            tape.watch((x, weights))
            loss = tf.reduce_sum(convolve(x, weights, strides, "SAME") ** 2)
        computed.append(tape.gradient(loss, (x, weights)))
    for expected, values in zip(*computed, strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
