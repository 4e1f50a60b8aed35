"""A classifier in WSInfer's format is run and assessed like one of bcgan, or refused with the reason."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import bcgan
from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.data.records import Record
from bcgan.errors import InputError
from bcgan.predict import assess, foreign, loading
from bcgan.predict.foreign import ForeignModel, Transform, ZooConfig
from bcgan.predict.model import OUT_OF_DISTRIBUTION, SCORED
from tests.predict.conftest import command

CONFIG = {
    "spec_version": "1.0", "architecture": "x", "num_classes": 2, "class_names": ["notumor", "tumor"],
    "patch_size_pixels": 50, "spacing_um_px": 4.0, "transform": [{"name": "ToTensor"}],
}  # fmt: skip


def make(names=("notumor", "tumor"), outputs=None, **arguments) -> ForeignModel:
    """A model whose network gives `outputs` to every patch, or the mean red level to the last class."""
    config = ZooConfig.model_validate(CONFIG | {"class_names": names, "num_classes": len(names)})

    def run_network(images):
        if outputs is not None:
            return np.tile(outputs, (len(images), 1))
        red = images[..., 0].mean((1, 2)) / 255
        return np.stack([1 - red, red], 1)

    return ForeignModel(config, run_network, "digest", **arguments)


def test_probabilities_are_those_of_the_network_without_an_abstain_range():
    patches = example_patches(6)[0]
    red = patches[..., 0].mean((1, 2)) / 255
    predictions = make().predict(patches)
    np.testing.assert_allclose(predictions.probability, red, atol=1e-6)
    np.testing.assert_array_equal(predictions.called, red >= 0.5)
    assert (predictions.verdict == SCORED).all()
    assert np.isnan(predictions.uncertainty).all()
    np.testing.assert_allclose(make().probabilities(patches), red, atol=1e-6)


def test_patches_that_are_changed_in_place_are_predicted_again():
    model, patches = make(), example_patches(2)[0].copy()
    before = model.probabilities(patches)
    patches[..., 0] //= 2
    assert (model.probabilities(patches) < before).all()


def test_classes_are_named_joined_and_ordered_by_the_data_set():
    names = ("tumor", "stroma", "fat")
    model = make(names, [0.5, 0.3, 0.2]).with_labels(
        {"tumor": "malignant", "stroma": "benign", "fat": "benign"}, ("benign", "malignant")
    )
    assert model.card.classes == ("benign", "malignant")
    np.testing.assert_allclose(model.predict(example_patches(1)[0]).class_probabilities, [[0.5, 0.5]])


def test_the_case_of_a_networks_classes_does_not_count():
    model = make(("Malignant", "Benign"), [0.9, 0.1]).with_labels({}, ("benign", "malignant"))
    assert model.card.classes == ("benign", "malignant")
    np.testing.assert_allclose(model.predict(example_patches(1)[0]).probability, [0.9])


def test_what_a_network_of_bcgan_rejects_is_out_of_distribution():
    names = ("benign", "malignant", "no_tissue", "out_of_distribution")
    patches = example_patches(1)[0]
    assert make(names, [0.3, 0.6, 0.05, 0.05]).predict(patches).verdict == SCORED
    rejected = make(names, [0, 0, 0, 1.0]).predict(patches)
    assert rejected.verdict == OUT_OF_DISTRIBUTION
    assert np.isnan(rejected.probability).all()
    accepted = make(names, [0.3, 0.6, 0.05, 0.05]).predict(patches)
    np.testing.assert_allclose(accepted.probability, 0.6 / 0.9, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        ({"tumour": "malignant"}, None, ["tumour", "notumor, tumor"]),
        ({}, ("benign", "malignant"), ["notumor, tumor", "benign, malignant", "--class tumor=malignant"]),
        ({"notumor": "tumor"}, None, ["count as tumor"]),
    ],
)
def test_other_classes_are_refused(labels, order, words):
    with pytest.raises(InputError) as error:
        make().with_labels(labels, order)
    assert all(word in str(error.value) for word in words)


def test_patches_are_resized_and_normalized_as_the_configuration_says():
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    steps = (
        Transform(name="Resize", arguments={"size": 30}), Transform(name="ToTensor"),
        Transform(name="Normalize", arguments={"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}),
    )  # fmt: skip
    resized = np.asarray(Image.fromarray(image).resize((30, 30), Image.Resampling.BILINEAR)) / 255
    prepared = foreign.prepare(image, steps)
    assert prepared.shape == (3, 30, 30)
    np.testing.assert_allclose(prepared[1], (resized[..., 1] - 0.4) / 0.2, atol=1e-6)


def test_images_at_another_scale_are_refused_once():
    record = Record("a", "a.png", "", "p", 0, 0, 0, "", bytes, mpp=40.0)
    with pytest.raises(InputError, match=r"40 microns.*takes 4.*10 times"):
        assess._check_scale([record], make(), None)
    assess._check_scale([record._replace(mpp=4.0)], make(), None)


@pytest.fixture
def folder(tmp_path):
    """A folder in WSInfer's format whose network calls a patch by its red level."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: requirements-wsinfer.txt")

    class Red(torch.nn.Module):
        def forward(self, x):
            red = x[:, 0].mean((1, 2)).clamp(0.001, 0.999)
            return torch.stack([1 - red, red], 1).log()

    torch.jit.script(Red()).save(str(tmp_path / "torchscript_model.pt"))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_a_folder_is_loaded_and_predicts_from_the_command_line(folder, idc_folder, tmp_path):
    out = tmp_path / "out.csv"
    assert command(idc_folder, "--model", folder, "--out", out) == 0
    rows = list(csv.DictReader(out.open()))
    assert {row["label"] for row in rows} <= {"notumor", "tumor"}
    assert {row["uncertainty"] for row in rows} == {""}
    assert command(idc_folder, "--model", folder, "--out", out, "--maps", tmp_path / "maps") == 0
    for outlines in (tmp_path / "maps").glob("*.geojson"):
        json.loads(outlines.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert bcgan.load(str(folder)).engine == "pytorch"
    with pytest.raises(InputError, match="no Keras|TorchScript"):
        _ = bcgan.load(str(folder)).network
    with pytest.raises(InputError, match="PyTorch alone"):
        loading.load(folder, "keras")


def test_a_network_that_gives_probabilities_gets_no_softmax(folder):
    import torch

    class Probabilities(torch.nn.Module):
        def forward(self, x):
            red = x[:, 0].mean((1, 2))
            return torch.stack([1 - red, red], 1)

    torch.jit.script(Probabilities()).save(str(folder / "torchscript_model.pt"))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"apply_softmax": False}))
    patches = example_patches(3)[0]
    red = patches[..., 0].mean((1, 2)) / 255
    np.testing.assert_allclose(loading.load(folder).probabilities(patches), red, atol=1e-5)


def test_a_number_of_outputs_unlike_the_number_of_classes_is_refused(folder):
    three = {"class_names": ["a", "b", "c"], "num_classes": 3}
    (folder / "config.json").write_text(json.dumps(CONFIG | three))
    with pytest.raises(InputError, match="names 3 classes"):
        loading.load(folder).probabilities(example_patches(1)[0])


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", "{", ["config.json", "Compare"]),
        ("config.json", json.dumps(CONFIG | {"num_classes": 3}), ["num_classes", "3"]),
        ("config.json", json.dumps(CONFIG | {"spacing_um_px": 0}), ["spacing_um_px"]),
        ("config.json", json.dumps(CONFIG | {"transform": [{"name": "Crop"}]}), ["transform"]),
        ("torchscript_model.pt", "x", ["torchscript_model.pt", "Copy it again"]),
    ],
)
def test_files_that_cannot_be_read_are_named(folder, file, content, words):
    (folder / file).write_text(content)
    with pytest.raises(InputError) as error:
        loading.load(folder)
    assert all(word in str(error.value) for word in words)


def test_a_model_of_bcgan_takes_no_class_names(model):
    with pytest.raises(InputError, match="WSInfer"):
        assess.assess(model, SimpleNamespace(), None, None, {"a": "b"})
