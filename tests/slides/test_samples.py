"""The brightness and the opacity of pixels are those that the file states, whatever their number of bits."""

import io

import cv2
import numpy as np
import pytest
import tifffile

from bcgan.slides.decode import decode_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 70, 3), dtype=np.uint8)
ALPHA = RNG.choice(np.array([0, 1, 100, 254, 255], np.uint8), PIXELS.shape[:2])
ON_WHITE = np.rint(PIXELS * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None].astype(int)).astype(np.uint8)
OPAQUE_16 = np.full(PIXELS.shape[:2], 65535, np.uint16)


def tiff(pixels: np.ndarray, photometric: str = "rgb", **options) -> bytes:
    data = io.BytesIO()
    tifffile.imwrite(data, pixels, photometric=photometric, metadata=None, **options)
    return data.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])[1].tobytes()


def deep(bits: int) -> np.ndarray:
    """Return the pixels as uint16 of which only `bits` bits are used."""
    return (PIXELS.astype(np.uint32) * 257 >> 16 - bits).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 15])
@pytest.mark.parametrize("fourth", [(png, {}), (tiff, {"extrasamples": [2]}), (tiff, {"extrasamples": [0]})])
def test_opacity_does_not_count_as_a_bright_pixel(bits, fourth):
    write, options = fourth
    data = write(np.dstack([deep(bits), OPAQUE_16]), **options)
    with pytest.raises(ValueError, match=f"^a has 16-bit pixels of which {bits} bits are used"):
        decode_image(data, "a")
    full = write(np.dstack([deep(16), OPAQUE_16]), **options)
    np.testing.assert_array_equal(decode_image(full, "a"), PIXELS)


@pytest.mark.parametrize("bits", [12, 14])
@pytest.mark.parametrize("write", [png, tiff])
def test_a_white_frame_does_not_count_as_a_bright_pixel(bits, write):
    framed = deep(bits)
    framed[:2] = framed[-2:] = framed[:, :2] = framed[:, -2:] = 65535
    with pytest.raises(ValueError, match=f"^a has 16-bit pixels of which {bits} bits are used"):
        decode_image(write(framed), "a")


def test_what_lies_under_transparency_does_not_count_as_a_bright_pixel():
    hidden, alpha = deep(12), OPAQUE_16.copy()
    hidden[:20], alpha[:20] = 60_000, 0
    for data in (png(np.dstack([hidden, alpha])), tiff(np.dstack([hidden, alpha]), extrasamples=[2])):
        with pytest.raises(ValueError, match="^a has 16-bit pixels of which 12 bits are used"):
            decode_image(data, "a")


@pytest.mark.parametrize("write", [png, tiff])
@pytest.mark.parametrize("values", [(65535,), (0,), (0, 65535)])
def test_16_bit_images_of_nothing_but_black_and_white_are_read(write, values):
    pixels = np.resize(np.array(values, np.uint16), (60, 70, 3))
    np.testing.assert_array_equal(decode_image(write(pixels), "a"), pixels >> 8)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 7])
def test_fewer_than_8_bits_are_scaled(bits):
    pixels = PIXELS >> 8 - bits
    expected = np.rint(pixels * (255 / (2**bits - 1)))
    np.testing.assert_array_equal(decode_image(tiff(pixels, bitspersample=bits), "a"), expected)
    gray = decode_image(tiff(pixels[..., 0], "minisblack", bitspersample=bits), "a")
    np.testing.assert_array_equal(gray, np.repeat(expected[..., :1], 3, 2))


@pytest.mark.parametrize("fourth", [0, 7, 255])
def test_a_fourth_sample_without_a_meaning_is_left_out(fourth):
    data = tiff(np.dstack([PIXELS, np.full(PIXELS.shape[:2], fourth, np.uint8)]), extrasamples=[0])
    np.testing.assert_array_equal(decode_image(data, "a"), PIXELS)


@pytest.mark.parametrize("depth", [8, 16])
def test_transparency_is_laid_on_white_and_multiplied_once(depth):
    factor, kind = (257, np.uint16) if depth == 16 else (1, np.uint8)
    straight = np.dstack([PIXELS, ALPHA]).astype(kind) * kind(factor)
    np.testing.assert_array_equal(decode_image(tiff(straight, extrasamples=[2]), "a"), ON_WHITE)
    multiplied = np.rint(PIXELS * (ALPHA[..., None] / 255)).astype(np.uint8)
    multiplied = np.dstack([multiplied, ALPHA]).astype(kind) * kind(factor)
    np.testing.assert_array_equal(decode_image(tiff(multiplied, extrasamples=[1]), "a"), ON_WHITE)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_gray_transparency_is_laid_on_white(photometric):
    stored = 255 - PIXELS[..., 0] if photometric == "miniswhite" else PIXELS[..., 0]
    image = decode_image(tiff(np.dstack([stored, ALPHA]), photometric, extrasamples=[2]), "a")
    np.testing.assert_array_equal(image, np.repeat(ON_WHITE[..., :1], 3, 2))


def test_four_channels_without_a_meaning_are_no_colors():
    """As in fluorescence: no red, green, blue and something else."""
    with pytest.raises(ValueError, match="^a has 4 channels that are not red, green and blue"):
        decode_image(tiff(np.dstack([PIXELS, ALPHA]), "minisblack", planarconfig="contig"), "a")


@pytest.mark.parametrize("largest", [15, 255])
def test_a_format_that_is_not_documented_is_refused(largest):
    """OpenCV reads PNM of 4 bits without scaling them."""
    with pytest.raises(ValueError, match="^a is not an image of a format that is read here"):
        decode_image(b"P6 70 60 %d\n" % largest + np.minimum(PIXELS, largest).tobytes(), "a")
