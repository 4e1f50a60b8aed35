"""Tissue is neither glass of any colour nor pen, the edge of a coverslip or an unscanned area."""

import numpy as np
import pytest

from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.sizes import MIN_TISSUE_FRACTION
from bcgan.slides.decode import lay_on_white
from bcgan.slides.tissue import (
    estimate_background,
    fill_unscanned,
    is_colorless,
    tissue_fraction,
    tissue_mask,
)

RNG = np.random.default_rng(0)
GLASS = {
    "white": (255, 255, 255), "grey": (214, 206, 210), "dark grey": (160, 161, 160), "cream": (250, 244, 226),
    "unscanned": (0, 0, 0), "bluish": (225, 232, 240),
}  # fmt: skip
PENS = {
    "black": (20, 20, 22),
    "green": (40, 140, 70),
    "blue": (30, 60, 180),
    "red": (205, 30, 45),
    "cyan": (40, 150, 160),
}


def flat(colour: tuple[int, int, int], noise: float = 0, side: int = 50) -> np.ndarray:
    image = np.array(colour) + RNG.normal(0, noise, (side, side, 1))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0, 1.5])
@pytest.mark.parametrize("colour", GLASS)
def test_glass_is_no_tissue(colour, noise):
    assert tissue_mask(flat(GLASS[colour], noise)).mean() < 0.02


@pytest.mark.parametrize("colour", PENS)
def test_pen_marks_are_no_tissue(colour):
    image = flat((244, 244, 244), 1, 200)
    image[:150, :150] = flat(PENS[colour], 8, 150)
    assert tissue_mask(image).mean() < 0.02


def test_the_edge_of_a_coverslip_is_no_tissue():
    image = flat((240, 240, 238), 1, 100)
    image[40:60] = (np.linspace(90, 230, 20)[:, None, None] + (0, 1, 2)).astype(np.uint8)
    assert tissue_mask(image).mean() < MIN_TISSUE_FRACTION / 4


def test_stained_patches_are_tissue():
    patches = example_patches(40)[0]
    assert (tissue_fraction(patches) >= MIN_TISSUE_FRACTION).mean() > 0.95


def test_a_smooth_pink_field_is_tissue():
    """Necrosis and mucus are smooth; their colour is not that of glass."""
    pink = flat((240, 200, 220), 4)
    assert tissue_mask(pink).mean() > 0.95
    np.testing.assert_array_equal(estimate_background(pink), (255, 255, 255))


@pytest.mark.parametrize("colour", ["white", "grey", "cream", "bluish"])
def test_the_background_is_estimated_from_the_image(colour):
    image = flat(GLASS[colour], 1, 200)
    image[:100, :100] = example_patches(4)[0].reshape(2, 2, 50, 50, 3).swapaxes(1, 2).reshape(100, 100, 3)
    np.testing.assert_allclose(estimate_background(image), GLASS[colour], atol=2)


def test_a_grey_image_is_masked_by_its_darkness():
    """The model refuses to score it, as it has no stain, but it is not empty."""
    grey = example_patches(4)[0].mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    assert is_colorless(grey).all()
    assert (tissue_fraction(grey) > MIN_TISSUE_FRACTION).all()


def test_transparent_pixels_are_glass():
    from bcgan.slides.decode import decode_image
    from tests.slides.containers import encode

    patch = example_patches(1)[0][0]
    clear = np.dstack([patch, np.zeros((50, 50), np.uint8)])
    assert tissue_mask(decode_image(encode("PNG", clear), "clear.png")).mean() == 0


def test_transparent_pixels_are_mixed_with_white_exactly():
    """Every color with every opacity, by exact fractions; opaque and empty images too."""
    color, alpha = np.meshgrid(np.arange(256), np.arange(256))
    image = np.stack([color, color, 255 - color, alpha], -1).astype(np.uint8)
    mixed = lay_on_white(image)
    for channel, values in enumerate((color, color, 255 - color)):
        exact = (2 * (values * alpha + 255 * (255 - alpha)) + 255) // 510  # rounded half up; no half occurs
        np.testing.assert_array_equal(mixed[..., channel], exact)
    image[..., 3] = 255
    np.testing.assert_array_equal(lay_on_white(image), image[..., :3])
    image[..., 3] = 0
    assert (lay_on_white(image) == 255).all()


def test_tinted_glass_is_no_tissue():
    """Pinkish glass beside tissue, and an empty image with a tint."""
    image = flat((240, 215, 230), 0.5, 200)
    image[:100, :100] = example_patches(4)[0].reshape(2, 2, 50, 50, 3).swapaxes(1, 2).reshape(100, 100, 3)
    mask = tissue_mask(image)
    assert mask[:100, :100].mean() > 0.5 and mask[104:, 104:].mean() < 0.02
    assert tissue_mask(flat((230, 190, 215), 0.5)).mean() < 0.02


def test_unscanned_areas_become_glass():
    image = flat((243, 242, 244), 1, 120)
    image[:60, :60] = example_patches(4)[0].reshape(2, 2, 50, 50, 3).swapaxes(1, 2).reshape(100, 100, 3)[:60, :60]
    black = image.copy()
    black[80:] = 0
    filled = fill_unscanned(black.copy())
    assert np.abs(filled[80:].astype(int) - (243, 242, 244)).max() <= 2
    np.testing.assert_array_equal(filled[:78], black[:78])
    nucleus = image.copy()
    nucleus[30:36, 30:36] = 5
    np.testing.assert_array_equal(fill_unscanned(nucleus.copy()), nucleus)
