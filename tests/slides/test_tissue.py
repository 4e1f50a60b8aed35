"""What is tissue: not glass of any colour, not pen, not the edge of a coverslip, not what was never scanned."""

import numpy as np
import pytest

from bcgan.data.histology_phantom.tissue import draw
from bcgan.slides.tissue import MIN_TISSUE_FRACTION, estimate_background, is_colourless, tissue_fraction, tissue_mask

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
    patches = draw(40)[0]
    assert (tissue_fraction(patches) >= MIN_TISSUE_FRACTION).mean() > 0.95


def test_a_smooth_pink_field_is_tissue():
    """Necrosis and mucus are smooth; their colour is not that of glass."""
    pink = flat((240, 205, 222), 1)
    assert tissue_mask(pink).mean() > 0.95
    np.testing.assert_array_equal(estimate_background(pink), (255, 255, 255))


@pytest.mark.parametrize("colour", ["white", "grey", "cream", "bluish"])
def test_the_background_is_that_of_the_image(colour):
    image = flat(GLASS[colour], 1, 200)
    image[:100, :100] = draw(4)[0].reshape(2, 2, 50, 50, 3).swapaxes(1, 2).reshape(100, 100, 3)
    np.testing.assert_allclose(estimate_background(image), GLASS[colour], atol=2)


def test_a_grey_image_is_masked_by_its_darkness():
    """It has no stain, which the model refuses to score, but it is not empty."""
    grey = draw(4)[0].mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    assert is_colourless(grey).all()
    assert (tissue_fraction(grey) > MIN_TISSUE_FRACTION).all()


def test_transparent_pixels_are_glass():
    from bcgan.slides.decode import decode_image
    from tests.slides.containers import encode

    patch = draw(1)[0][0]
    clear = np.dstack([patch, np.zeros((50, 50), np.uint8)])
    assert tissue_mask(decode_image(encode("PNG", clear), "clear.png")).mean() == 0
