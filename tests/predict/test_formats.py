"""Exported formats give the network's probabilities, or are marked as not faithful."""

from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from bcgan import cli
from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.errors import InputError
from bcgan.models.classifier import build_classifier
from bcgan.models.discriminator import discriminator
from bcgan.models.projected_discriminator import imagenet_features
from bcgan.predict import check, formats


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    network = build_classifier("resnet_table1")
    for layer in network.get_layer("resnet_table1").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            rng = np.random.default_rng(0)
            layer.set_weights([rng.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    return network


@pytest.fixture(scope="module")
def written(network, tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """The folder with the network in three formats, and their table. The integers are calibrated on its 8 patches."""
    folder = tmp_path_factory.mktemp("formats")
    return folder, formats.write(network, ("savedmodel", "litert", "litert-int8"), example_patches(8)[0], folder)


def test_each_format_is_run_and_compared_with_the_network(written):
    folder, table = written
    assert list(table["format"]) == ["savedmodel", "litert", "litert-int8"]
    exact = table.set_index("format")["largest_difference"]
    assert exact[["savedmodel", "litert"]].max() < 1e-4
    assert (table["faithful"] == (table["largest_difference"] <= formats.MAX_DEVIATION)).all()
    sizes = table.set_index("format")["mebibytes"]
    assert sizes["litert-int8"] < sizes["litert"] / 2
    assert all((folder / name).exists() for name in table["file"])


def test_a_saved_model_serves_by_signature(network, written):
    served = tf.saved_model.load(written[0] / "savedmodel").signatures["serving_default"]
    images = example_patches(4)[0].astype(np.float32) / 255
    (outputs,) = served(tf.constant(images)).values()
    np.testing.assert_allclose(outputs, network(images, training=False), atol=1e-4)


def test_litert_takes_any_number_of_patches(written):
    folder, table = written
    run, patches = formats.read_litert(folder / table.set_index("format").at["litert", "file"]), example_patches(5)[0]
    np.testing.assert_allclose(run(patches)[:2], run(patches[:2]), atol=1e-5)


def test_onnx_gives_the_same_or_names_the_missing_packages(network, tmp_path):
    try:
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="requirements-bench"):
            formats.write(network, ("onnx",), example_patches(2)[0], tmp_path)
    else:
        assert formats.write(network, ("onnx",), example_patches(8)[0], tmp_path)["faithful"].all()


def test_networks_that_resize_feature_maps_are_converted_too(tmp_path):
    """ONNX rounds the side of a resized map down, 13 to 12: the fused model knows no such layer."""
    keras.utils.set_random_seed(0)
    network = build_classifier(
        "gan_resnet", discriminator=discriminator(8), further_maps=imagenet_features(weights=False)
    )
    network.get_layer("gan_resnet").get_layer("features_gate").gamma.assign(
        np.full(64, 50.0)
    )  # large, so that the resized maps have an effect
    kinds = ("litert", "onnx") if find_spec("tf2onnx") else ("litert",)
    assert formats.write(network, kinds, example_patches(8)[0], tmp_path)["faithful"].all()


def test_the_shipped_classifier_is_exported_without_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, "CHECK_PATCHES", 16)
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "--model", "shipped", "--format", "litert", "--out", str(tmp_path / "out")])
    assert stop.value.code == 0
    assert (tmp_path / "out" / "classifier-float32.tflite").exists()
    assert "True" in (tmp_path / "out" / "formats.csv").read_text()
    assert "litert" in capsys.readouterr().out


def test_a_model_without_a_format_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "--model", "shipped"])
    assert stop.value.code == 2
    assert "--format" in capsys.readouterr().err
