"""Coded images of which a part is missing or zeros are refused, which their decoders read without a word."""

import io

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.encaps import encapsulate

from bcgan.slides.damage import find_damage
from bcgan.slides.decode import decode_image
from tests.slides import containers

PICTURE = containers.picture(8, 8)
CODES = {
    "JPEG": ("JPEG", {"quality": 90}),
    "optimized JPEG": ("JPEG", {"quality": 90, "optimize": True}),
    "JPEG with restarts": ("JPEG", {"quality": 90, "restart_marker_blocks": 4}),
    "progressive JPEG": ("JPEG", {"quality": 90, "progressive": True}),
    "WebP": ("WEBP", {"quality": 90}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "JPEG 2000": ("JPEG2000", {"irreversible": True, "quality_layers": [20, 10]}),
    "lossless JPEG 2000": ("JPEG2000", {"irreversible": False}),
    "tiles of JPEG 2000": ("JPEG2000", {"tile_size": (128, 128)}),
    "codes of JPEG 2000": ("JPEG2000", {"no_jp2": True}),
    "PNG": ("PNG", {}),
}


def encode(code: str, picture: np.ndarray = PICTURE) -> bytes:
    data, (kind, options) = io.BytesIO(), CODES[code]
    Image.fromarray(picture).save(data, kind, **options)
    return data.getvalue()


def with_zeros(data: bytes, begin: float, end: float) -> bytes:
    """Return the data with zeros between two fractions of its length."""
    first, last = int(begin * len(data)), int(end * len(data))
    return data[:first] + bytes(last - first) + data[last:]


@pytest.mark.parametrize("code", CODES)
def test_a_part_that_is_missing_is_refused(code):
    data = encode(code)
    decode_image(data, "a")
    for fraction in (0.3, 0.5, 0.9):
        for damaged in (with_zeros(data, fraction, 1), data[: int(fraction * len(data))]):
            with pytest.raises(ValueError, match="^a "):
                decode_image(damaged, "a")


@pytest.mark.parametrize("code", [code for code in CODES if "optimized" not in code and "progressive" not in code])
@pytest.mark.parametrize("begin", [0.4, 0.6, 0.8])
def test_a_hole_is_refused(code, begin):
    with pytest.raises(ValueError, match="^a "):
        decode_image(with_zeros(encode(code), begin, begin + 0.1), "a")


@pytest.mark.parametrize("code", [code for code in CODES if "JPEG" in code])
def test_an_end_that_is_missing_is_refused(code):
    data = encode(code)
    assert data.endswith(b"\xff\xd9")
    with pytest.raises(ValueError, match="^a is truncated or damaged: its end is missing"):
        decode_image(data[:-2], "a")


@pytest.mark.parametrize("code", CODES)
def test_what_follows_the_end_does_not_count(code):
    data = encode(code)
    pixels = decode_image(data, "a")
    for more in (bytes(5000), b"\xff" * 100, b"words\n", bytes(5000) + data, bytes(5000) + data[: len(data) // 2]):
        np.testing.assert_array_equal(decode_image(data + more, "a"), pixels)


@pytest.mark.parametrize("code", CODES)
def test_flat_pictures_are_whole(code):
    """Long rows of zeros are their codes in some formats."""
    glass = np.full((2000, 2000, 3), 243, np.uint8)
    corner = glass.copy()
    corner[:400, :400] = PICTURE
    for picture in (glass, corner, corner[::-1, ::-1], 0 * glass, corner[:50, :50], glass[:50, :50]):
        assert find_damage(encode(code, picture), picture.shape[0] * picture.shape[1]) is None


def test_zeros_before_the_pixels_do_not_count():
    """As in the metadata of cameras, which have a small picture with an end of its own."""
    small = encode("JPEG", PICTURE[:40, :40])
    data = encode("optimized JPEG")
    extra = b"Exif\0\0" + bytes(3000) + small
    segment = b"\xff\xe1" + (len(extra) + 2).to_bytes(2, "big") + extra
    whole = data[:2] + segment + data[2:]
    np.testing.assert_array_equal(decode_image(whole, "a"), decode_image(data, "a"))
    with pytest.raises(ValueError, match="its end is missing"):
        decode_image(with_zeros(whole, 0.6, 1), "a")


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp"])
def test_a_tile_with_a_part_missing_is_refused(compression):
    file = io.BytesIO()
    tifffile.imwrite(file, PICTURE, photometric="rgb", tile=(208, 208), compression=compression, metadata=None)
    data = file.getvalue()
    decode_image(data, "a")
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        offset, count = tiff.pages[0].dataoffsets[1], tiff.pages[0].databytecounts[1]
    damaged = data[: offset + count // 2] + bytes(count - count // 2) + data[offset + count :]
    with pytest.raises(ValueError, match="^slide.tif is damaged .*a strip or tile is not whole"):
        decode_image(damaged, "slide.tif")


def test_a_frame_of_dicom_with_a_part_missing_is_refused(tmp_path):
    path = containers.write(tmp_path / "photo.dcm", PICTURE, (0.5, 0.5))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    data = encode("JPEG")
    for damaged in (False, True):
        dataset.PixelData = encapsulate([with_zeros(data, 0.5, 1) if damaged else data])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
        if damaged:
            with pytest.raises(ValueError, match="^a is not a DICOM image that can be read .*its end is missing"):
                decode_image(path.read_bytes(), "a")
        else:
            assert np.abs(decode_image(path.read_bytes(), "a").astype(int) - PICTURE).mean() < 6
