"""The fused model gives the network's answers, learns what it learns, and leaves it as the table has it."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bcgan.models import fast
from bcgan.models.classifier import build_classifier
from bcgan.models.discriminator import discriminator
from bcgan.models.efficientnet_lite import unfreeze_except_batch_norm
from bcgan.models.generator import generator
from bcgan.models.projected_discriminator import imagenet_features, projected_discriminator, projected_features


def _network(name: str) -> keras.Model:
    """With statistics and scales that differ from a fresh network's, so that a wrong one shows."""
    keras.utils.set_random_seed(0)
    judge = discriminator(width=8) if name.startswith("gan_resnet") else None
    beside = None
    if name.endswith("beside"):
        seen = imagenet_features(weights=False)
        beside = projected_features(seen, projected_discriminator(seen, 8))
        unfreeze_except_batch_norm(beside)
    network = build_classifier(name.removesuffix("_beside"), discriminator=judge, further_maps=beside)
    rng = np.random.default_rng(0)
    for layer in _normalisations(network) if name != "efficientnet_lite0" else ():  # which has ImageNet's
        gamma, *rest = layer.get_weights()
        layer.set_weights([rng.uniform(0.5, 1.5, len(gamma)) for _ in (gamma, *rest)])
    return network


def _normalisations(network: keras.Model):
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _normalisations(layer)
        elif isinstance(layer, layers.BatchNormalization):
            yield layer


@pytest.mark.parametrize(
    "name", ["resnet_table1", "gan_resnet", "gan_resnet_beside", "resnet34", "resnet50", "efficientnet_lite0"]
)
def test_twin_answers_as_the_network_does(name):
    network = _network(name)
    images = np.random.default_rng(1).random((4, 50, 50, 3), np.float32)
    expected = network(images, training=False).numpy()
    assert np.ptp(expected) > 1e-4
    np.testing.assert_allclose(fast.fuse_model(network)(images, training=False).numpy(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet_table1", "gan_resnet", "gan_resnet_beside", "resnet50", "efficientnet_lite0"])
def test_twin_has_the_gradients_and_moves_the_statistics_of_the_network(name):
    images = np.random.default_rng(1).random((8, 50, 50, 3), np.float32)
    found = []
    for make in (lambda network: network, fast.fuse_model):
        network = _network(name)
        run = make(network)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run(images, training=True) ** 2)
        gradients = tape.gradient(loss, network.trainable_variables)
        statistics = [value for layer in _normalisations(network) for value in layer.get_weights()[2:]]
        found.append([*(np.asarray(gradient) for gradient in gradients), *statistics])
    for plain, quick in zip(*found, strict=True):
        # As a whole, not number by number: a ReLU at its kink turns with the last digit.
        assert np.linalg.norm(quick - plain) < 0.02 * np.linalg.norm(plain) + 1e-4


def test_twin_of_a_generator_draws_and_learns_what_the_generator_does():
    keras.utils.set_random_seed(0)
    network, rng = generator(16, 8), np.random.default_rng(3)
    grown = [layer for layer in fast.fuse_model(network).layers if isinstance(layer, fast._UpsamplingConv)]
    assert len(grown) == 4  # 4 to 7 to 13 to 25 to 50
    given = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 16), (4, 50, 50, 1))]
    given.insert(1, np.array([0, 1, 0, 1], np.int32))
    found = []
    for run in (network, fast.fuse_model(network)):
        drawn = run(given, training=False).numpy()
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run(given, training=True) ** 2)
        gradients = map(tf.convert_to_tensor, tape.gradient(loss, network.trainable_variables))
        found.append([drawn, *(gradient.numpy() for gradient in gradients)])
        for layer in _normalisations(network):  # which the training call moved
            layer.set_weights([np.zeros(layer.moving_mean.shape), np.ones(layer.moving_mean.shape)])
    for plain, quick in zip(*found, strict=True):
        assert np.linalg.norm(quick - plain) < 1e-3 * np.linalg.norm(plain) + 1e-6


def test_statistics_of_a_frozen_normalisation_stay():
    network = _network("efficientnet_lite0")
    before = [layer.get_weights() for layer in _normalisations(network)]
    fast.fuse_model(network)(np.random.default_rng(1).random((2, 50, 50, 3), np.float32), training=True)
    for layer, values in zip(_normalisations(network), before, strict=True):
        for value, old in zip(layer.get_weights(), values, strict=True):
            np.testing.assert_array_equal(value, old)


def test_table_1s_256_channels_are_never_made():
    def channels(model) -> set[int]:
        inner = [channels(layer) for layer in model.layers if isinstance(layer, keras.Model)]
        maps = (layer.output.shape for layer in model.layers if not isinstance(layer, keras.Model))
        return {shape[-1] for shape in maps if len(shape) == 4}.union(*inner)

    network = build_classifier("resnet_table1")
    assert 256 in channels(network)
    assert channels(fast.fuse_model(network)) == {3, 64}


def test_maps_are_read_one_by_one_or_together_as_on_a_gpu(monkeypatch):
    network = _network("resnet_table1")
    images, read = np.random.default_rng(1).random((4, 50, 50, 3), np.float32), []

    def reading(convolve, *given):
        read.append(given)
        return convolve(*given)

    monkeypatch.setattr(tf.nn, "conv2d", functools.partial(reading, tf.nn.conv2d))
    found, counts = [], []
    for concat_inputs in (False, True):
        fused = fast.fuse_model(network, concat_inputs)
        read.clear()
        found.append(fused(images).numpy())
        counts.append(len(read))
    others = 6  # the stem's, the first 1x1 convolution and the 3x3 ones, whose biases are left out
    assert counts == [others + 2 + 3 + 4 + 5, others + 4]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("between", [layers.ReLU, layers.BatchNormalization, layers.UpSampling2D])
def test_maps_that_something_else_reads_are_made(between):
    image = keras.Input((6, 6, 4))
    x = layers.Conv2D(16, 1, name="expanding")(image)
    x = layers.Add()([x, layers.Conv2D(16, 1)(image)])
    network = keras.Model(image, [layers.Conv2D(2, 1)(x), layers.Conv2D(2, 1)(between()(x))])
    assert "expanding" in [layer.name for layer in fast.fuse_model(network).layers]


@pytest.mark.parametrize("cut", ["bottleneck1_conv3", "bottleneck2_add"])
def test_maps_that_are_a_networks_own_output_are_made(cut):
    whole = build_classifier("resnet_table1").get_layer("resnet_table1")
    network = keras.Model(whole.input, whole.get_layer(cut).output)
    images = np.random.default_rng(1).random((2, 50, 50, 3), np.float32)
    np.testing.assert_allclose(fast.fuse_model(network)(images), network(images), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("width", [1, 16])
def test_a_sum_is_made_where_it_repeats_channels_alone(width):
    image = keras.Input((6, 6, 4))
    other = layers.Conv2D(width, 3, padding="same", activation="relu")(image)
    x = layers.Add()([layers.Conv2D(16, 1, bias_initializer="ones")(image), other])
    network = keras.Model(image, layers.Conv2D(2, 1, bias_initializer="ones")(x))
    fused, images = fast.fuse_model(network), np.random.default_rng(1).random((2, 6, 6, 4), np.float32)
    assert any(isinstance(layer, layers.Add) for layer in fused.layers) == (width == 1)
    np.testing.assert_allclose(fused(images), network(images), rtol=1e-4, atol=1e-5)


def test_network_keeps_its_layers():
    network = build_classifier("resnet_table1")
    names = [layer.name for layer in network.get_layer("resnet_table1").layers]
    fast.fuse_model(network)
    assert [layer.name for layer in network.get_layer("resnet_table1").layers] == names
    assert "upsample" in names


@pytest.mark.parametrize("name", ["resnet_table1", "efficientnet_lite0"])
def test_twin_computes_as_its_network_does_whatever_the_process_trains_in(name):
    """An export after a training in bfloat16 is in float32, and LiteRT knows no pooling in bfloat16."""
    network = build_classifier(name, pretrained=False)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        fused = fast.fuse_model(network)
    finally:
        keras.mixed_precision.set_global_policy("float32")

    def precisions(model) -> set[str]:
        inner = [precisions(layer) for layer in model.layers if isinstance(layer, keras.Model)]
        own = [layer for layer in model.layers if not isinstance(layer, (keras.Model, layers.InputLayer))]
        return {layer.compute_dtype for layer in own}.union(*inner)

    assert precisions(fused) == {"float32"}
