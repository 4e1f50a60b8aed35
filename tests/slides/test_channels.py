"""Three gray planes are an image in colors only if their names, labels and colors say so, in any order."""

import io

import numpy as np
import pytest
import tifffile

from bcgan.slides.decode import decode_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 70, 3), dtype=np.uint8)
PLANES = np.moveaxis(PIXELS, -1, 0)
RED, GREEN, BLUE, CYAN, GRAY = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)
NOT_COLORS = "^a has 3 channels that are not red, green and blue"


def imagej(order: list[int], colors: tuple = (), depth: int = 1, **metadata) -> bytes:
    """Write planes as an ImageJ composite of which each channel is shown in a color."""
    planes = PLANES[order] if depth == 1 else np.stack([PLANES[order]] * depth)
    if colors:
        metadata["LUTs"] = [np.outer(color, np.arange(256)).astype(np.uint8) for color in colors]
    axes, data = "CYX" if depth == 1 else "ZCYX", io.BytesIO()
    tifffile.imwrite(data, planes, imagej=True, metadata={"axes": axes, "mode": "composite"} | metadata)
    return data.getvalue()


def ome(order: list[int], **channels) -> bytes:
    data = io.BytesIO()
    metadata = {"axes": "CYX", "Channel": channels}
    tifffile.imwrite(data, PLANES[order], ome=True, photometric="minisblack", metadata=metadata)
    return data.getvalue()


def signed(color: tuple[int, int, int], opacity: int = 255) -> int:
    return int.from_bytes(bytes([*(255 * value for value in color), opacity]), "big", signed=True)


@pytest.mark.parametrize(
    ("order", "colors", "labels"),
    [
        ([0, 1, 2], (), None),
        ([0, 1, 2], (RED, GREEN, BLUE), None),
        ([2, 1, 0], (BLUE, GREEN, RED), None),
        ([1, 2, 0], (GREEN, BLUE, RED), ["slide.tif"] * 3),
        ([2, 1, 0], (), ["Blue", "Green", "Red"]),
        ([2, 0, 1], (RED, GREEN, BLUE), ["b", "r", "g"]),
        ([0, 1, 2], (GRAY, GRAY, GRAY), None),
        ([0, 1, 2], (), ["c:1/3 - slide.tif", "c:2/3 - slide.tif", "c:3/3 - slide.tif"]),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_colors_of_imagej_are_read_in_their_order(order, colors, labels, depth):
    metadata = {"Labels": labels * depth} if labels else {}
    np.testing.assert_array_equal(decode_image(imagej(order, colors, depth, **metadata), "a"), PIXELS)


@pytest.mark.parametrize(
    ("colors", "labels"),
    [
        ((), ["DAPI", "GFP", "RFP"]),
        ((RED, GREEN, BLUE), ["DAPI", "GFP", "RFP"]),
        ((), ["Red", "Red", "Blue"]),
        ((), ["Red", "DAPI", "Blue"]),
        ((CYAN, GREEN, RED), None),
        ((RED, RED, BLUE), None),
        ((RED, GREEN, GRAY), None),
    ],
)
def test_channels_of_imagej_that_are_no_colors_are_refused(colors, labels):
    with pytest.raises(ValueError, match=NOT_COLORS):
        decode_image(imagej([0, 1, 2], colors, **({"Labels": labels} if labels else {})), "a")


@pytest.mark.parametrize(
    ("order", "channels"),
    [
        ([0, 1, 2], {}),
        ([2, 1, 0], {"Name": ["Blue", "Green", "Red"]}),
        ([2, 1, 0], {"Color": [signed(BLUE), signed(GREEN), signed(RED)]}),
        ([2, 1, 0], {"Color": [signed(BLUE), signed(GREEN), signed(RED)], "Name": ["0", "1", "2"]}),
        ([2, 1, 0], {"Color": [signed(RED)] * 3, "Name": ["Blue", "Green", "Red"]}),
        ([0, 1, 2], {"Color": [-1] * 3}),
        ([0, 1, 2], {"Color": [-65536, -16711936, -16776961]}),
    ],
    ids=["nothing", "names", "colors", "colors and numbers", "names first", "white", "old order"],
)
def test_colors_of_ome_are_read_in_their_order(order, channels):
    np.testing.assert_array_equal(decode_image(ome(order, **channels), "a"), PIXELS)


@pytest.mark.parametrize(
    "channels",
    [
        {"Name": ["DAPI", "GFP", "RFP"]},
        {"Name": ["Red", "Red", "Blue"]},
        {"Color": [signed(CYAN), signed(GREEN), signed(RED)]},
    ],
)
def test_channels_of_ome_that_are_no_colors_are_refused(channels):
    with pytest.raises(ValueError, match=NOT_COLORS):
        decode_image(ome([0, 1, 2], **channels), "a")
