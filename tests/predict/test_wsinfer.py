"""The folder for WSInfer and QuPath gives the probabilities of `bcgan predict` for single patches."""

import importlib.util
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from bcgan.classify import calibration
from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.errors import InputError, WorkError
from bcgan.predict import wsinfer
from bcgan.slides import tissue
from tests.predict.conftest import check_that_it_follows_the_device

RNG = np.random.default_rng(0)


def odd_patches() -> np.ndarray:
    """Tissue, partly glass, tinted glass, ink, gray, black, noise and a negative; uint8, (n, 50, 50, 3)."""
    patches = example_patches(8)[0]
    partly_glass = patches[:4].copy()
    for patch, column in zip(partly_glass, (10, 25, 40, 46), strict=True):
        patch[:, column:] = (240, 238, 243)
    plain = [np.full((50, 50, 3), color, np.uint8) for color in ((245,) * 3, (235, 225, 238), (0,) * 3, (30, 90, 40))]
    gray = np.repeat(patches[:1].mean(-1, keepdims=True).astype(np.uint8), 3, -1)
    foreign = [gray, RNG.integers(0, 256, gray.shape, dtype=np.uint8), 255 - patches[:1], patches[:1] // 2 + 127]
    return np.concatenate([patches, partly_glass, np.stack(plain), *foreign])


@pytest.fixture(scope="module")
def torch_module():
    pytest.importorskip("torch", reason="PyTorch is not installed: requirements-wsinfer.txt")
    from bcgan.predict import torch_module

    return torch_module


def test_the_file_gives_the_probabilities_of_predict_also_for_glass_and_foreign_patches(model, torch_module, tmp_path):
    patches = odd_patches()
    probabilities, seconds = wsinfer.write(model, patches, tmp_path)
    expected = wsinfer.expected_probabilities(model, patches)
    np.testing.assert_allclose(probabilities, expected, atol=0.003)  # the weights of the engine are in half precision
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (expected[:, 2].sum() >= 2) and expected[:8, :2].sum(1).min() == 1  # the patches include glass and tissue
    assert seconds > 0
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["class_names"] == ["benign", "malignant", "no_tissue", "out_of_distribution"]
    assert written["num_classes"] == 4
    assert written["patch_size_pixels"] * written["spacing_um_px"] == 200
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "torchscript_model.pt"}

    import torch

    module = torch.jit.load(tmp_path / "torchscript_model.pt")
    enlarged = np.stack([cv2.resize(patch, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST) for patch in patches])
    with torch.no_grad():
        outputs = module(torch.tensor(enlarged).permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(torch.softmax(outputs, 1), probabilities, atol=1e-4)  # a patch at eight times the scale
    check_that_it_follows_the_device(tmp_path / "torchscript_model.pt")


def test_tissue_and_color_are_found_as_in_slides(torch_module):
    import torch

    patches = odd_patches()
    levels = torch.tensor(patches).float()
    colorless = torch_module.is_colorless(levels)
    np.testing.assert_array_equal(colorless, tissue.is_colorless(patches))
    assert set(colorless.tolist()) == {True, False}
    np.testing.assert_allclose(
        torch_module.tissue_fraction(levels, colorless), tissue.tissue_fraction(patches), atol=0.001
    )


@pytest.mark.parametrize("side", [37, 50, 64, 400])
def test_patches_are_resized_by_area(torch_module, side):
    import torch

    image = RNG.integers(0, 256, (side, side, 3), dtype=np.uint8).astype(np.float32)
    resized = torch_module.resize_area(torch.tensor(image).permute(2, 0, 1)[None], 50)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(resized.mean(), image.mean(), atol=0.01)
    if side >= 50:  # OpenCV enlarges otherwise
        expected = cv2.resize(image, (50, 50), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(resized, expected, atol=0.01)


@pytest.mark.parametrize(
    ("parameters", "probabilities"),
    [
        (calibration.Calibration(0.8, -1.2), np.array([0.02, 0.5, 0.97])),
        (calibration.Calibration([0.8, 1.3, 1], [0.5, 0, -0.5]), RNG.dirichlet(np.ones(3), 5)),
    ],
)
def test_probabilities_are_calibrated_as_predict_does(torch_module, parameters, probabilities):
    import torch

    tensors = SimpleNamespace(**{name: torch.tensor(value) for name, value in parameters._asdict().items()})
    expected = calibration.apply(parameters, probabilities)
    if probabilities.ndim == 1:
        probabilities, expected = (np.stack([1 - values, values], 1) for values in (probabilities, expected))
    calibrated = torch_module.PatchClassifier._calibrate(tensors, torch.tensor(probabilities))
    np.testing.assert_allclose(calibrated, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"microns_per_pixel": None}, ["scale", "data.mpp"]),
        ({"reference_cnn_size": 64}, ["64", "bcgan predict"]),
    ],
)
def test_models_that_wsinfer_cannot_run_are_refused(model, monkeypatch, change, words):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError) as error:
        wsinfer.check(SimpleNamespace(card=model.card.model_copy(update=change)))
    assert all(word in str(error.value) for word in words)


def test_without_pytorch_the_install_command_is_named(model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install -r requirements-wsinfer.txt"):
        wsinfer.check(model)


def test_a_conversion_that_fails_leaves_nothing(model, monkeypatch, tmp_path):
    monkeypatch.setattr(wsinfer, "check", lambda model: None)
    monkeypatch.setattr(wsinfer, "_write_parts", lambda model, patches, work: None)
    with pytest.raises(WorkError, match="could not write the network"):
        wsinfer.write(model, odd_patches(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
