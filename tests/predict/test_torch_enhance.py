"""Patches are enhanced in TorchScript as `bcgan predict` enhances them."""

import copy

import cv2
import numpy as np
import pytest

from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.predict import wsinfer
from bcgan.predict.model import Enhancement
from bcgan.preprocess import stain
from bcgan.preprocess.images import enhance
from tests.predict.conftest import check_that_it_follows_the_device

torch = pytest.importorskip("torch", reason="PyTorch is not installed: requirements-wsinfer.txt")
from bcgan.predict import torch_enhance  # noqa: E402, needs PyTorch

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (4, 50, 50, 3), dtype=np.uint8)
FLAT = np.full((3, 50, 50, 3), [[[[250]]], [[[3]]], [[[120]]]], np.uint8)


def tissue(side: int) -> np.ndarray:
    """Phantom tissue at any size, uint8 (16, side, side, 3)."""
    return np.stack([cv2.resize(patch, (side, side)) for patch in example_patches(16)[0]])


@pytest.mark.parametrize("patches", [tissue(50), tissue(51), tissue(33), tissue(96), NOISE, FLAT])
@pytest.mark.parametrize("clahe", [False, True])
@pytest.mark.parametrize("blur", ["none", "gaussian", "median"])
def test_filters_give_the_levels_of_opencv(patches, blur, clahe):
    settings = Enhancement(blur=blur, clahe=clahe)
    expected = np.stack([enhance(patch, settings) for patch in patches]).astype(float)
    difference = np.abs(torch_enhance.enhance(torch.tensor(patches).float(), blur, clahe).numpy() - expected)
    if not clahe:
        assert difference.max() == 0
    assert difference.max() <= 4 and difference.mean() < 0.12
    if patches is not FLAT and (clahe or blur != "none"):
        assert np.abs(patches - expected).mean() > 0.5  # the filter changes something


def test_lightness_is_equalized_as_by_opencv_where_tiles_are_not_equal():
    equalizer = cv2.createCLAHE(torch_enhance.CLIP_LIMIT, (torch_enhance.TILES, torch_enhance.TILES))
    for channel in (tissue(51)[..., 1], NOISE[..., 0], np.zeros((1, 40, 64), np.uint8)):
        expected = np.stack([equalizer.apply(np.ascontiguousarray(plane)) for plane in channel]).astype(float)
        computed = torch_enhance.equalize_lightness(torch.tensor(channel).float()).numpy()
        assert np.abs(computed - expected).max() <= 1


def test_stains_are_normalized_where_a_patch_shows_two():
    few_pixels = np.full((1, 50, 50, 3), 255, np.uint8)
    few_pixels[:, :10, :10] = tissue(50)[0, :10, :10]
    patches = np.concatenate([tissue(50), NOISE, FLAT, few_pixels, np.repeat(NOISE[..., :1], 3, 3)])
    expected, is_normalized = zip(*(stain.normalize(patch[None]) for patch in patches), strict=True)
    computed = torch_enhance.normalize_stains(torch.tensor(patches).float()).numpy()
    assert np.abs(computed - np.concatenate(expected)).max() <= 1
    unchanged = ~np.array(is_normalized)
    assert 4 < unchanged.sum() < len(patches) - 8
    np.testing.assert_array_equal(computed[unchanged], patches[unchanged])


@pytest.mark.parametrize("settings", [
    Enhancement(blur="median", stain_normalization="macenko"), Enhancement(blur="gaussian", clahe=True),
])  # fmt: skip
def test_the_file_enhances_patches_as_predict_does(model, tmp_path, settings):
    """Probabilities are spread first: those of a network that was hardly trained are nearly the same."""
    patches, sharp = tissue(50), copy.copy(model)
    sharp.card = model.card.model_copy(update={"calibration": model.card.calibration._replace(temperature=0.1)})
    enhancing = copy.copy(sharp)
    enhancing.card = sharp.card.model_copy(update={"enhancement": settings})
    probabilities, _ = wsinfer.write(enhancing, patches, tmp_path)
    expected = wsinfer.expected_probabilities(enhancing, patches)
    np.testing.assert_allclose(probabilities, expected, atol=0.02 if settings.clahe else 0.003)
    plain = wsinfer.expected_probabilities(sharp, patches)
    assert np.abs(expected - plain).max() > 0.004
    check_that_it_follows_the_device(tmp_path / "torchscript_model.pt")
