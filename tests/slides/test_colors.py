"""The same picture has the same colors in every way that a format can store them; unknown color spaces are refused."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.slides.decode import decode_image

PATCH = example_patches(1)[0][0]
HEIGHT, WIDTH = PATCH.shape[:2]
CHANNELS = {0xFF: 0, 0xFF00: 1, 0xFF0000: 2, 0xFF000000: 3}  # the byte of a pixel that a mask selects


def bitmap(header_bytes: int, masks: tuple[int, ...]) -> bytes:
    """PATCH as a 32-bit BMP with masks of red, green, blue and maybe opacity; a byte that no mask selects is 0."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    for channel, mask in enumerate(masks):
        if mask:
            pixels[..., CHANNELS[mask]] = PATCH[..., channel] if channel < 3 else 255
    data = pixels[::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", header_bytes, WIDTH, HEIGHT, 1, 32, 3, len(data), 2835, 2835, 0, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    header = header.ljust(header_bytes, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(data), 0, 0, 14 + len(header)) + header + data


@pytest.mark.parametrize("header_bytes", [40, 52, 56, 108, 124])
@pytest.mark.parametrize(
    "masks",
    [
        (0xFF0000, 0xFF00, 0xFF),  # as Windows writes pictures of its screen
        (0xFF000000, 0xFF0000, 0xFF00),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    ],
)
def test_a_bitmap_has_its_colors_whatever_its_masks(header_bytes, masks):
    if len(masks) == 4 and header_bytes < 56:
        masks = masks[:3]  # these headers have no mask of opacity
    np.testing.assert_array_equal(decode_image(bitmap(header_bytes, masks), "a.bmp"), PATCH)


def jpeg_2000(samples: np.ndarray, color_space: int) -> bytes:
    """A lossless JPEG 2000 file of samples, (height, width, channels), whose header states a color space."""
    data = bytearray(imagecodecs.jpeg2k_encode(samples, level=0, reversible=True, codecformat="jp2", mct=False))
    place = data.find(b"colr")
    data[place + 7 : place + 11] = struct.pack(">I", color_space)
    return bytes(data)


def ycc_samples() -> np.ndarray:
    """PATCH as luminance and two color differences, by the formula of JPEG, JPEG 2000 and TIFF."""
    red, green, blue = np.moveaxis(PATCH.astype(float), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    samples = np.stack([luma, (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128], -1)
    return samples.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 16])
def test_ycc_colors_are_converted_by_the_standard_or_refused(bits):
    if bits == 16:
        with pytest.raises(ValueError, match=r"color space 18, which is not read\. Save it as PNG"):
            decode_image(jpeg_2000(ycc_samples().astype(np.uint16) * 257, 18), "a.jp2")
        return
    decoded = decode_image(jpeg_2000(ycc_samples(), 18), "a.jp2")
    assert np.abs(decoded.astype(int) - PATCH).max() <= 2  # samples are rounded


@pytest.mark.parametrize(
    ("coefficients", "range_", "is_read"),
    [
        (None, None, True),
        ((299, 1000, 587, 1000, 114, 1000), (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1), True),
        (None, (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1), False),  # of video
        ((2126, 10000, 7152, 10000, 722, 10000), None, False),
    ],
)
def test_ycc_colors_of_a_tiff_that_have_another_range_or_formula_are_refused(coefficients, range_, is_read):
    tags = [(529, "2I", 3, coefficients), (530, "H", 2, (1, 1)), (532, "2I", 6, range_)]
    tags = [(*tag, True) for tag in tags if tag[-1]]
    file = io.BytesIO()
    tifffile.imwrite(file, ycc_samples(), photometric="ycbcr", metadata=None, extratags=tags)
    if is_read:
        decoded = decode_image(file.getvalue(), "a.tif")
        assert np.abs(decoded.astype(int) - PATCH).max() <= 2
        return
    with pytest.raises(ValueError, match=r"a\.tif has YCbCr pixels without JPEG compression .* Save it as RGB"):
        decode_image(file.getvalue(), "a.tif")


@pytest.mark.parametrize("color_space", [0, 3, 12, 14, 20, 21, 24])
def test_color_spaces_that_would_be_taken_for_rgb_are_refused(color_space):
    with pytest.raises(ValueError, match=f"color space {color_space}, which is not read"):
        decode_image(jpeg_2000(PATCH, color_space), "a.jp2")
    np.testing.assert_array_equal(decode_image(jpeg_2000(PATCH, 16), "a.jp2"), PATCH)


def test_gray_with_opacity_lies_on_white():
    gray, opacity = PATCH[..., 0], np.full((HEIGHT, WIDTH), 255, np.uint8)
    opacity[:20] = 0
    file = io.BytesIO()
    Image.fromarray(np.stack([gray, opacity], -1), "LA").save(file, "JPEG2000")
    expected = np.where(opacity == 0, 255, gray)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(decode_image(file.getvalue(), "a.jp2"), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_the_transparent_color_of_a_png_is_white(mode):
    image = Image.fromarray(PATCH).convert(mode)
    color = image.getpixel((25, 25))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=color)
    samples = np.asarray(image)
    is_clear = (samples == color) if samples.ndim == 2 else (samples == color).all(-1)
    expected = np.where(is_clear[..., None], 255, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(decode_image(file.getvalue(), "a.png"), expected)


@pytest.mark.parametrize(("bits", "gray"), [(1, 0), (2, 1), (4, 5), (8, 77), (16, 4660)])
def test_the_transparent_gray_of_a_png_is_white_whatever_its_bits(bits, gray):
    """Its value in the file is that of a sample, which is then scaled to 8 bits."""
    side, largest = 16, 2**bits - 1
    samples = np.arange(side * side).reshape(side, side) * 257 % (largest + 1)
    samples[3] = gray
    rows = b"".join(b"\0" + pack_bits(row, bits) for row in samples)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0)), (b"tRNS", struct.pack(">H", gray)),
        (b"IDAT", zlib.compress(rows)), (b"IEND", b""),
    ]  # fmt: skip
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    levels = samples >> 8 if bits == 16 else samples * 255 // largest
    expected = np.where(samples == gray, 255, levels)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(decode_image(data, "a.png"), expected)


def pack_bits(row: np.ndarray, bits: int) -> bytes:
    """Samples of a row as a PNG stores them."""
    if bits == 16:
        return row.astype(">u2").tobytes()
    return np.packbits((row[:, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).ravel()).tobytes()


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_jpeg_2000_of_fewer_than_8_bits_is_refused(bits):
    samples = PATCH[..., 0] >> (8 - bits)
    data = imagecodecs.jpeg2k_encode(samples, level=0, reversible=True, codecformat="jp2", bitspersample=bits)
    with pytest.raises(ValueError, match=f"a\\.jp2 has JPEG 2000 samples of {bits} bits; 8 and 16 are read"):
        decode_image(data, "a.jp2")


@pytest.mark.parametrize(
    ("tag", "values"), [((529, "f", 3), (0.299, 0.587, 0.114)), ((532, "I", 6), (0, 255, 128, 255, 128, 255))]
)
def test_ycc_tags_may_be_of_another_type(tag, values):
    file = io.BytesIO()
    tags = [(530, "H", 2, (1, 1), True), (*tag, values, True)]
    tifffile.imwrite(file, ycc_samples(), photometric="ycbcr", metadata=None, extratags=tags)
    assert np.abs(decode_image(file.getvalue(), "a.tif").astype(int) - PATCH).max() <= 2
