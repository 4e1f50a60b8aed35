import keras
import numpy as np
import pytest

from bcgan.classifiers import CLASSIFIERS
from bcgan.errors import InputError
from bcgan.models import table1, weights
from bcgan.models.classifier import build_classifier, build_for_run
from bcgan.models.discriminator import discriminator, feature_maps, features_without_spectral_norm, list_blocks
from bcgan.models.efficientnet_lite import efficientnet_lite, has_weights, unfreeze_except_batch_norm
from bcgan.models.gan_resnet import gan_resnet, resnet_features
from bcgan.models.generator import generator, recalibrate_batch_norm, scale_latent_input
from bcgan.models.projected_discriminator import imagenet_features, projected_discriminator, projected_features
from bcgan.models.resnet34 import resnet34
from bcgan.models.resnet_table1 import resnet_table1
from bcgan.models.translator import translator
from bcgan.settings import Classifier
from tests.digest import digest

RNG = np.random.default_rng(0)
IMAGES = RNG.random((2, 50, 50, 3), np.float32)
LABELS = np.array([0, 1], np.int32)
NOISE = RNG.standard_normal((2, 16)).astype(np.float32)
GRAIN = RNG.standard_normal((2, 50, 50, 1)).astype(np.float32)
NAMES = tuple(name for name, spec in CLASSIFIERS.items() if spec.pretraining == "none")


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def check(network: keras.Model, inputs, shape, tmp_path) -> np.ndarray:
    """Shape, float32 out, finite, and the same numbers after saving and safe loading."""
    output = np.asarray(network(inputs, training=False))
    assert output.shape == shape
    assert output.dtype == np.float32
    assert np.isfinite(output).all()
    weights.save_model(network, tmp_path / "model.keras")
    again = weights.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(inputs, training=False)), output)
    return output


@pytest.mark.parametrize("name", NAMES)
def test_classifiers(name, policy, tmp_path):
    check(build_classifier(name, discriminator=discriminator(8)), IMAGES, (2, 1), tmp_path)


def test_transfer_leaves_imagenets_statistics_as_they_are(tmp_path):
    network = build_classifier("efficientnet_lite0", pretrained=False)
    check(network, IMAGES, (2, 1), tmp_path)
    trained = {variable.path.rsplit("/", 1)[-1] for variable in network.trainable_variables}
    assert trained == {"kernel", "bias"}
    before = [np.asarray(variable) for variable in network.non_trainable_variables]
    network(IMAGES, training=True)
    for values, variable in zip(before, network.non_trainable_variables, strict=True):
        if keras.backend.is_float_dtype(variable.dtype):  # dropout's random state moves
            np.testing.assert_array_equal(values, variable)


def test_generator(policy, tmp_path):
    images = check(generator(16, 8), [NOISE, LABELS, GRAIN], (2, 50, 50, 3), tmp_path)
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_generator_depends_on_noise_label_and_grain():
    make = generator(16, 8)
    base = np.asarray(make([NOISE, LABELS, GRAIN]))
    for changed_inputs in ([NOISE[::-1], LABELS, GRAIN], [NOISE, 1 - LABELS, GRAIN], [NOISE, LABELS, GRAIN[::-1]]):
        assert np.abs(base - np.asarray(make(changed_inputs))).mean() > 1e-3


def test_a_recalibrated_generator_makes_nearly_what_batch_statistics_make():
    keras.utils.set_random_seed(0)
    network, count = generator(16, 8), 256
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, 16)), np.arange(count) % 2, rng.normal(size=(count, 50, 50, 1))
    network.get_layer("grow2_bn").moving_variance.assign(
        np.full(32, 9.0)
    )  # as if from other weights, whose maps vary more
    before = [np.array(weight) for weight in network.get_weights()]
    recalibrated = recalibrate_batch_norm(network, 0, batches=16)
    for old, now in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert {layer.momentum for layer in recalibrated.layers if hasattr(layer, "momentum")} == {0.9}
    recalibrated_images, stored_images = np.asarray(recalibrated(inputs)), np.asarray(network(inputs))
    batch_images = np.asarray(network(inputs, training=True))
    assert np.abs(recalibrated_images - batch_images).mean() < np.abs(stored_images - batch_images).mean() / 4
    assert recalibrated_images.std() > stored_images.std()


def test_scaling_the_latent_input_equals_scaling_the_noise():
    network = generator(width=8)
    rng = np.random.default_rng(0)
    noise, label, grain = rng.normal(size=(4, 96)), np.array([0, 1, 0, 1]), rng.normal(size=(4, 50, 50, 1))
    before = np.asarray(network([1.5 * noise, label, grain]))
    scale_latent_input(network, 1.5)
    np.testing.assert_allclose(np.asarray(network([noise, label, grain])), before, atol=1e-5)


def test_the_projected_discriminator_scores_every_place_of_three_maps(policy, tmp_path):
    features = imagenet_features(weights=False)
    assert not features.trainable_variables
    maps = [np.asarray(x) for x in features(IMAGES)]
    network = projected_discriminator(features, width=8)
    logits = network([*maps, LABELS])
    assert [tuple(x.shape) for x in logits] == [(2, 13, 13, 1), (2, 7, 7, 1), (2, 4, 4, 1)]
    assert any(
        np.abs(np.asarray(x) - np.asarray(y)).max() > 0
        for x, y in zip(logits, network([*maps, 1 - LABELS]), strict=True)
    )


def test_a_new_translator_leaves_patches_as_they_are(policy, tmp_path):
    images = np.clip(IMAGES, 1 / 255, 1.0)
    output = check(translator(4), images, (2, 50, 50, 3), tmp_path)
    np.testing.assert_allclose(output, images, atol=1e-5)


def test_discriminator_and_its_maps(policy, tmp_path):
    network = discriminator(8)
    check(network, [IMAGES, LABELS], (2, 1), tmp_path)
    shapes = [tuple(output.shape[1:]) for output in feature_maps(network).outputs]
    assert shapes == [(25, 25, 8), (13, 13, 16), (7, 7, 32), (4, 4, 64)]
    for block in list_blocks(network):
        assert feature_maps(network, (block,))(IMAGES) is not None


def test_table_1_totals_are_the_papers():
    network = resnet_table1()
    assert network.count_params() == 308_323
    assert sum(int(np.prod(w.shape)) for w in network.trainable_weights) == 307_171
    assert sum(int(np.prod(w.shape)) for w in network.non_trainable_weights) == 1_152


def test_every_listed_row_of_table_1():
    table, totals = table1.compare()
    verdicts = table.set_index("layer")["verdict"]
    for row in table1.LISTED:
        expected = "erratum" if row.layer == "dense" else "match"
        assert verdicts[row.layer].startswith(expected)
    assert totals == table1.TOTALS | {"rows_matching": 11, "rows_listed": 11}


def test_the_comparison_sees_a_difference():
    image = keras.Input((50, 50, 3), name="image")
    network = keras.Model(image, keras.layers.Conv2D(32, 7, strides=2, padding="same", name="stem_conv")(image))
    table, totals = table1.compare(network)
    assert table["verdict"].tolist()[-1] == "differs"
    assert totals["rows_matching"] == 0


@pytest.mark.parametrize(("shortcut", "parameters"), [("projection", 21_301_696), ("identity", 21_126_080)])
def test_resnet34_has_either_shortcut(shortcut, parameters):
    assert resnet34(shortcut=shortcut).count_params() == parameters


def test_resnet34_refuses_another_shortcut():
    with pytest.raises(ValueError, match="Received: shortcut='dense'"):
        resnet34(shortcut="dense")


@pytest.mark.parametrize("source", ["none", "projected_discriminator", "imagenet"])
def test_the_gate_starts_closed(source):
    """With the gate at zero the merged network is Table 1's network, whatever the maps of the discriminators are."""
    merged, plain = gan_resnet(discriminator(8), further_maps=build_further_maps(source)), resnet_table1()
    for layer in plain.layers:
        layer.set_weights(merged.get_layer(layer.name).get_weights())
    np.testing.assert_allclose(np.asarray(merged(IMAGES)), np.asarray(plain(IMAGES)), atol=1e-5)


@pytest.mark.parametrize("source", ["none", "projected_discriminator", "imagenet"])
def test_the_discriminators_inside_stay_frozen(source):
    merged, alone = gan_resnet(discriminator(8), further_maps=build_further_maps(source)), resnet_table1()
    inner_networks = [layer for layer in merged.layers if isinstance(layer, keras.Model)]
    before = [digest(network.variables) for network in inner_networks]
    merged(IMAGES, training=True)
    assert [digest(network.variables) for network in inner_networks] == before
    added = {weight.path for weight in merged.trainable_weights} - {weight.path for weight in alone.trainable_weights}
    assert added == {"features_projection/kernel", "features_gate/gamma", "features_gate/beta"}


def test_resnet50_loads_imagenets_weights_and_preprocesses_patches_for_them(monkeypatch, tmp_path):
    """Only the download is replaced: random weights stand for ImageNet's."""
    requested, build = [], keras.applications.ResNet50

    def downloaded(weights, **options):
        requested.append(weights)
        return build(weights=None, **options)

    monkeypatch.setattr(keras.applications, "ResNet50", downloaded)
    network = build_classifier("resnet50", classifier_settings=Classifier(weights="imagenet"))
    assert requested == ["imagenet"]
    logits = check(network, IMAGES, (2, 1), tmp_path)
    backbone = network.get_layer("transferred_resnet50").get_layer("resnet50")
    expected = backbone(keras.applications.resnet50.preprocess_input(255 * IMAGES), training=False)
    expected = network.get_layer("logit")(expected)
    np.testing.assert_allclose(logits, np.asarray(expected), atol=1e-4)


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def unreachable(**_):
        raise Exception("URL fetch failure on https://example.org/resnet50.h5: None -- unreachable")

    monkeypatch.setattr(keras.applications, "ResNet50", unreachable)
    with pytest.raises(InputError, match=r"could not be downloaded.*weights=none"):
        build_classifier("resnet50", classifier_settings=Classifier(weights="imagenet"))


def test_further_maps_can_be_tuned_except_their_normalisations():
    further_maps = build_further_maps("projected_discriminator")
    unfreeze_except_batch_norm(further_maps)
    merged = gan_resnet(discriminator(8), further_maps=further_maps)
    trainable_paths = {
        weight.path for weight in merged.trainable_weights if "_blocks" in weight.path or "second" in weight.path
    }
    assert any("_blocks.10._project_conv/kernel" in path for path in trainable_paths)
    assert any("second3" in path for path in trainable_paths)
    assert not any(path.endswith(("gamma", "beta")) for path in trainable_paths)


def test_projected_features_are_the_maps_that_the_projected_discriminator_scores():
    backbone = imagenet_features(weights=False)
    network = trained_discriminator(backbone)
    maps = keras.Model(network.inputs[:-1], [network.get_layer(f"second{number}").output for number in (1, 2, 3)])
    for computed, expected in zip(projected_features(backbone, network)(IMAGES), maps(backbone(IMAGES)), strict=True):
        np.testing.assert_allclose(np.asarray(computed), np.asarray(expected), atol=1e-5)


def test_a_gan_without_a_projected_discriminator_is_named(tmp_path):
    (tmp_path / "gan").mkdir()
    discriminator(8).save(tmp_path / "gan" / "discriminator.keras")
    with pytest.raises(InputError, match=r"projected_discriminator\.keras is missing.* --force gan"):
        build_for_run("gan_resnet", tmp_path, classifier_settings=Classifier(extra_features="projected_discriminator"))


def test_a_runs_projected_discriminator_joins_and_is_tuned(tmp_path):
    if not has_weights("lite0"):
        pytest.skip("the package with EfficientNet-Lite0's weights is not installed")
    projected = trained_discriminator(imagenet_features())
    (tmp_path / "gan").mkdir()
    for name, network in (("discriminator", discriminator(8)), ("projected_discriminator", projected)):
        weights.save_model(network, tmp_path / "gan" / f"{name}.keras")
    settings = Classifier(extra_features="projected_discriminator", finetune_extra_features=True)
    further_maps = (
        build_for_run("gan_resnet", tmp_path, classifier_settings=settings)
        .get_layer("gan_resnet")
        .get_layer("projected_features")
    )
    kernel = projected.get_layer("second3_spectral").layer.kernel
    (copy,) = (weight for weight in further_maps.trainable_weights if weight.path.endswith("second3_conv/kernel"))
    np.testing.assert_array_equal(copy.numpy(), kernel.numpy())


def trained_discriminator(backbone: keras.Model) -> keras.Model:
    network = projected_discriminator(backbone, 8)
    network([*backbone(IMAGES), keras.ops.convert_to_tensor(LABELS)], training=True)  # updates its spectral norms
    return network


def build_further_maps(source: str) -> keras.Model | None:
    backbone = imagenet_features(weights=False)
    return {
        "none": None,
        "imagenet": backbone,
        "projected_discriminator": projected_features(backbone, trained_discriminator(backbone)),
    }[source]


def test_the_copy_without_spectral_normalisation_gives_the_same_maps():
    network = discriminator(8)
    network([IMAGES, LABELS], training=True)
    for expected, computed in zip(
        feature_maps(network)(IMAGES), features_without_spectral_norm(network)(IMAGES), strict=True
    ):
        np.testing.assert_allclose(np.asarray(expected), np.asarray(computed), atol=1e-5)


def test_gan_resnet_takes_larger_patches():
    assert build_classifier("gan_resnet", 224, discriminator(8)).output_shape == (None, 1)


@pytest.mark.parametrize("name", ["gan_resnet", "gan_only", "efficientnet_lite0"])
def test_a_call_without_a_training_argument_is_inference(name):
    """A layer that resizes inside must not put the layers after it into training."""
    network = build_classifier(name, 60, discriminator(8), pretrained=False)
    images = RNG.random((2, 60, 60, 3), np.float32)
    expected = np.asarray(network(images, training=False))
    np.testing.assert_array_equal(np.asarray(network(images)), expected)


def test_wrong_names_and_missing_parts():
    with pytest.raises(ValueError, match="Received: name='vgg'"):
        build_classifier("vgg")
    with pytest.raises(ValueError, match="discriminator=None"):
        build_classifier("gan_resnet")


def test_the_head_of_gan_resnet_may_read_the_means_of_every_depth(tmp_path):
    """The means follow the 1,000 units, in the order of the blocks. The units are those of the network without them."""
    gan_discriminator = discriminator(8)
    plain, deep = (gan_resnet(gan_discriminator, multi_depth=depths) for depths in (False, True))
    for layer in plain.layers:
        if layer.weights and not isinstance(layer, keras.Model):
            deep.get_layer(layer.name).set_weights(layer.get_weights())
    features = check(deep, IMAGES, (2, 1000 + 8 * (1 + 2 + 4 + 8)), tmp_path)
    units = np.asarray(plain(IMAGES, training=False))
    np.testing.assert_allclose(features[:, :1000], np.maximum(units, 0), atol=1e-5)
    blocks = list_blocks(gan_discriminator)
    maps = features_without_spectral_norm(gan_discriminator, blocks)(IMAGES)
    means = np.concatenate([np.asarray(block).mean((1, 2)) for block in maps], 1)
    np.testing.assert_allclose(features[:, 1000:], means, atol=1e-5)
    logit = check(
        build_classifier("gan_resnet", 50, gan_discriminator, Classifier(multi_depth=True)), IMAGES, (2, 1), tmp_path
    )
    assert np.ptp(logit) > 0


@pytest.mark.parametrize("is_tuned", [False, True])
def test_self_supervised_maps_join_frozen_or_tuned(tmp_path, is_tuned):
    for name in ("gan", "pretrain"):
        (tmp_path / name).mkdir()
    weights.save_model(discriminator(8), tmp_path / "gan" / "discriminator.keras")
    backbone = efficientnet_lite("lite0", 100, weights=False)
    weights.save_model(backbone, tmp_path / "pretrain" / "simclr.keras")
    settings = Classifier(extra_features="simclr", finetune_extra_features=is_tuned, multi_depth=True)
    network = build_for_run("gan_resnet", tmp_path, classifier_settings=settings)
    inside = network.get_layer("gan_resnet").get_layer("simclr")
    taps = (24, 40, 112)
    assert [maps.shape[-1] for maps in inside.outputs] == list(taps)
    assert network.get_layer("logit").kernel.shape[0] == 1000 + 8 * 15 + sum(taps)
    assert inside.outputs[0].shape[1] == 25  # of patches that were enlarged to 100 pixels
    trained = {variable.path.rsplit("/", 1)[-1] for variable in inside.trainable_variables}
    assert trained == ({"kernel"} if is_tuned else set())
    kernel = next(layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)).kernel.numpy()
    assert any(np.array_equal(kernel, variable.numpy()) for variable in inside.variables)
    (tmp_path / "gan" / "discriminator.keras").unlink()
    with pytest.raises(InputError, match=r"discriminator\.keras is no network that can be read"):
        build_for_run("gan_resnet", tmp_path, classifier_settings=settings)
    control = build_for_run("resnet_features", tmp_path, classifier_settings=settings)  # needs no GAN
    assert control.get_layer("logit").kernel.shape[0] == 1000 + sum(taps)
    (tmp_path / "pretrain" / "simclr.keras").unlink()
    with pytest.raises(InputError, match=r"simclr\.keras, the self-supervised weights, is missing"):
        build_for_run("resnet_features", tmp_path, classifier_settings=settings)


def test_without_the_discriminator_the_network_starts_as_table_1s_alone():
    image = keras.Input((50, 50, 3))
    further_maps = keras.Model(image, [keras.layers.Conv2D(4, 3, strides=4)(image)])
    with_features, table1 = resnet_features(further_maps=further_maps), resnet_table1()
    for layer in table1.layers:
        if layer.weights:
            with_features.get_layer(layer.name).set_weights(layer.get_weights())
    expected = np.asarray(table1(IMAGES, training=False))
    np.testing.assert_allclose(np.asarray(with_features(IMAGES, training=False)), expected, atol=1e-6)
    with_features.get_layer("features_gate").gamma.assign(np.ones(64))
    assert np.abs(np.asarray(with_features(IMAGES, training=False)) - expected).max() > 1e-3
