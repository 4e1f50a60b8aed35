"""A page of half the sides is a level of the pyramid only if it is marked as one or shows the same picture."""

import io

import cv2
import numpy as np
import pytest
import tifffile

from bcgan.slides import levels
from bcgan.slides.patches import read_at_scale
from bcgan.slides.reader import open_image
from bcgan.slides.scale import Scale
from tests.slides import containers

PICTURE = containers.enlarge(containers.picture(4, 6), 2, 2)
HALF, QUARTER = PICTURE[::2, ::2], PICTURE[::4, ::4]
OTHERS = {
    "turned": HALF[::-1, ::-1],
    "mask": 255 * (HALF > 128).astype(np.uint8),
    "black": 0 * HALF,
    "glass": 0 * HALF + 240,
}
TWICE = Scale(2, 2, None, "user", False)


def write(*pages: np.ndarray, **options) -> bytes:
    data = io.BytesIO()
    with tifffile.TiffWriter(data) as tiff:
        for page in pages:
            tiff.write(page, photometric="rgb", metadata=None, **options)
    return data.getvalue()


@pytest.fixture(params=[2**24, 0], ids=["whole", "windows"], autouse=True)
def whole_px(request, monkeypatch):
    monkeypatch.setattr(levels, "WHOLE_PX", request.param)


@pytest.mark.parametrize("method", [cv2.INTER_NEAREST, cv2.INTER_AREA, cv2.INTER_CUBIC])
@pytest.mark.parametrize("options", [{}, {"tile": (64, 64)}, {"compression": "jpeg", "compressionargs": {"level": 60}}])
def test_pages_of_the_same_picture_are_levels(caplog, method, options):
    height, width = PICTURE.shape[:2]
    pages = [cv2.resize(PICTURE, (width // side, height // side), interpolation=method) for side in (2, 4)]
    with open_image(write(PICTURE, *pages, **options), "a.tif") as image:
        assert image.sizes == [(width, height), (width // 2, height // 2), (width // 4, height // 4)]
    assert not caplog.records


@pytest.mark.parametrize("other", OTHERS)
def test_a_page_of_another_picture_is_named_and_not_read(caplog, other):
    with open_image(write(PICTURE, OTHERS[other]), "a.tif") as image:
        assert image.sizes == [PICTURE.shape[1::-1]]
        np.testing.assert_array_equal(read_at_scale(image, TWICE), HALF)
    assert [record.getMessage() for record in caplog.records] == ["a.tif has 1 more images; the largest is read"]


def test_a_level_behind_another_picture_is_still_one(caplog):
    with open_image(write(PICTURE, OTHERS["turned"], QUARTER), "a.tif") as image:
        assert image.sizes == [PICTURE.shape[1::-1], QUARTER.shape[1::-1]]
    assert "a.tif has 1 more images" in caplog.text


def test_16_bit_pages_are_compared_too(caplog):
    deep = [page.astype(np.uint16) * 257 for page in (PICTURE, HALF, OTHERS["turned"])]
    with open_image(write(*deep[:2]), "a.tif") as image:
        assert len(image.sizes) == 2
    with open_image(write(deep[0], deep[2]), "a.tif") as image:
        np.testing.assert_array_equal(read_at_scale(image, TWICE), HALF)
    with pytest.raises(ValueError, match="12 bits are used"):
        open_image(write(deep[0] >> 4, deep[2]), "a.tif").read_region(0, 0, 0, 10, 10)


def test_pages_that_are_marked_are_levels_without_a_look(monkeypatch):
    monkeypatch.setattr(levels, "_is_same_part", None)
    data = io.BytesIO()
    with tifffile.TiffWriter(data) as tiff:
        tiff.write(PICTURE, photometric="rgb", metadata=None, subifds=1)
        tiff.write(HALF, photometric="rgb", metadata=None, subfiletype=1)
    with open_image(data.getvalue(), "a.tif") as image:
        assert len(image.sizes) == 2
