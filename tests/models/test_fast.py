"""The fused model has the outputs and gradients of its network, and leaves the network's layers unchanged."""

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
    """A classifier with random statistics and scales: with those of a new network an error in them would not show."""
    keras.utils.set_random_seed(0)
    gan_discriminator = discriminator(width=8) if name.startswith("gan_resnet") else None
    further_maps = None
    if name.endswith("further_maps"):
        backbone = imagenet_features(weights=False)
        further_maps = projected_features(backbone, projected_discriminator(backbone, 8))
        unfreeze_except_batch_norm(further_maps)
    network = build_classifier(
        name.removesuffix("_further_maps"), discriminator=gan_discriminator, further_maps=further_maps
    )
    rng = np.random.default_rng(0)
    # EfficientNet-Lite0 keeps ImageNet's.
    for layer in _normalisations(network) if name != "efficientnet_lite0" else ():
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
    "name", ["resnet_table1", "gan_resnet", "gan_resnet_further_maps", "resnet34", "resnet50", "efficientnet_lite0"]
)
def test_the_fused_model_has_the_outputs_of_the_network(name):
    network = _network(name)
    images = np.random.default_rng(1).random((4, 50, 50, 3), np.float32)
    expected = network(images, training=False).numpy()
    assert np.ptp(expected) > 1e-4
    np.testing.assert_allclose(fast.fuse_model(network)(images, training=False).numpy(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet_table1", "gan_resnet", "gan_resnet_further_maps", "resnet50", "efficientnet_lite0"]
)
def test_the_fused_model_has_the_gradients_and_updates_the_statistics_of_the_network(name):
    images = np.random.default_rng(1).random((8, 50, 50, 3), np.float32)
    computed = []
    for make in (lambda network: network, fast.fuse_model):
        network = _network(name)
        run = make(network)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run(images, training=True) ** 2)
        gradients = tape.gradient(loss, network.trainable_variables)
        statistics = [value for layer in _normalisations(network) for value in layer.get_weights()[2:]]
        computed.append([*(np.asarray(gradient) for gradient in gradients), *statistics])
    for original, fused in zip(*computed, strict=True):
        # By the norm, not number by number: rounding can switch a ReLU whose input is close to 0.
        assert np.linalg.norm(fused - original) < 0.02 * np.linalg.norm(original) + 1e-4


def test_a_fused_generator_has_the_images_and_gradients_of_the_generator():
    keras.utils.set_random_seed(0)
    network, rng = generator(16, 8), np.random.default_rng(3)
    upsampling = [layer for layer in fast.fuse_model(network).layers if isinstance(layer, fast._UpsamplingConv)]
    assert len(upsampling) == 4  # 4 to 7 to 13 to 25 to 50
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 16), (4, 50, 50, 1))]
    inputs.insert(1, np.array([0, 1, 0, 1], np.int32))
    computed = []
    for run in (network, fast.fuse_model(network)):
        drawn = run(inputs, training=False).numpy()
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run(inputs, training=True) ** 2)
        gradients = map(tf.convert_to_tensor, tape.gradient(loss, network.trainable_variables))
        computed.append([drawn, *(gradient.numpy() for gradient in gradients)])
        for layer in _normalisations(network):  # the training call changed them
            layer.set_weights([np.zeros(layer.moving_mean.shape), np.ones(layer.moving_mean.shape)])
    for original, fused in zip(*computed, strict=True):
        assert np.linalg.norm(fused - original) < 1e-3 * np.linalg.norm(original) + 1e-6


def test_statistics_of_a_frozen_normalisation_stay():
    network = _network("efficientnet_lite0")
    before = [layer.get_weights() for layer in _normalisations(network)]
    fast.fuse_model(network)(np.random.default_rng(1).random((2, 50, 50, 3), np.float32), training=True)
    for layer, values in zip(_normalisations(network), before, strict=True):
        for value, old in zip(layer.get_weights(), values, strict=True):
            np.testing.assert_array_equal(value, old)


def test_the_256_channels_of_table_1_are_never_computed():
    def channels(model) -> set[int]:
        inner = [channels(layer) for layer in model.layers if isinstance(layer, keras.Model)]
        maps = (layer.output.shape for layer in model.layers if not isinstance(layer, keras.Model))
        return {shape[-1] for shape in maps if len(shape) == 4}.union(*inner)

    network = build_classifier("resnet_table1")
    assert 256 in channels(network)
    assert channels(fast.fuse_model(network)) == {3, 64}


def test_summed_maps_are_convolved_one_by_one_or_concatenated(monkeypatch):
    network = _network("resnet_table1")
    images, convolved = np.random.default_rng(1).random((4, 50, 50, 3), np.float32), []

    def record_call(convolve, *arguments):
        convolved.append(arguments)
        return convolve(*arguments)

    monkeypatch.setattr(tf.nn, "conv2d", functools.partial(record_call, tf.nn.conv2d))
    outputs, counts = [], []
    for concat_inputs in (False, True):
        fused = fast.fuse_model(network, concat_inputs)
        convolved.clear()
        outputs.append(fused(images).numpy())
        counts.append(len(convolved))
    other_convolutions = 6  # the stem's, the first 1x1 convolution and the 3x3 ones, whose biases are left out
    assert counts == [other_convolutions + 2 + 3 + 4 + 5, other_convolutions + 4]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("between", [layers.ReLU, layers.BatchNormalization, layers.UpSampling2D])
def test_maps_that_another_layer_reads_are_computed(between):
    image = keras.Input((6, 6, 4))
    x = layers.Conv2D(16, 1, name="expanding")(image)
    x = layers.Add()([x, layers.Conv2D(16, 1)(image)])
    network = keras.Model(image, [layers.Conv2D(2, 1)(x), layers.Conv2D(2, 1)(between()(x))])
    assert "expanding" in [layer.name for layer in fast.fuse_model(network).layers]


@pytest.mark.parametrize("cut", ["bottleneck1_conv3", "bottleneck2_add"])
def test_maps_that_are_an_output_of_the_network_are_computed(cut):
    resnet = build_classifier("resnet_table1").get_layer("resnet_table1")
    network = keras.Model(resnet.input, resnet.get_layer(cut).output)
    images = np.random.default_rng(1).random((2, 50, 50, 3), np.float32)
    np.testing.assert_allclose(fast.fuse_model(network)(images), network(images), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("width", [1, 16])
def test_a_sum_is_computed_only_where_it_broadcasts_a_single_channel(width):
    image = keras.Input((6, 6, 4))
    narrow_maps = layers.Conv2D(width, 3, padding="same", activation="relu")(image)
    x = layers.Add()([layers.Conv2D(16, 1, bias_initializer="ones")(image), narrow_maps])
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
def test_the_fused_model_has_the_precision_of_its_network_whatever_the_global_policy_is(name):
    """An export after a training in bfloat16 is in float32: LiteRT has no pooling in bfloat16."""
    network = build_classifier(name, pretrained=False)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        fused = fast.fuse_model(network)
    finally:
        keras.mixed_precision.set_global_policy("float32")

    def precisions(model) -> set[str]:
        inner = [precisions(layer) for layer in model.layers if isinstance(layer, keras.Model)]
        plain_layers = [layer for layer in model.layers if not isinstance(layer, (keras.Model, layers.InputLayer))]
        return {layer.compute_dtype for layer in plain_layers}.union(*inner)

    assert precisions(fused) == {"float32"}
