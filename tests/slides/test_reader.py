"""How files become pixels: in blocks, from where the scan begins, by the resolution that is stated first."""

from contextlib import ExitStack

import numpy as np
import openslide
import pytest
import tifffile

from bcgan.slides import patches, reader, tiff
from bcgan.slides.patches import cut_patches, read_at_scale
from bcgan.slides.reader import VendorSlide, open_image
from bcgan.slides.scale import ModelScale, Mpp, Scale
from tests.slides import containers

MODEL = ModelScale(50, 4.0, (50, 50), 1.0)
SCALE = 4  # pixels of the slide for one of the model's


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Four by six patches of tissue at the model's scale, a column of glass at the right."""
    image = containers.picture(4, 6)
    image[:, 250:] = 255
    return image


def watch_regions(image, monkeypatch) -> list[tuple[int, int]]:
    """(width, height) of every region that is read from then on."""
    sizes, read_region = [], image.read_region

    def watched(level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        sizes.append((width, height))
        return read_region(level, x, y, width, height)

    monkeypatch.setattr(image, "read_region", watched)
    return sizes


def test_a_slide_is_read_in_blocks_at_the_models_scale(picture, tmp_path, monkeypatch):
    assert tiff.BLOCK_PX == reader.BLOCK_PX == 2048
    monkeypatch.setattr(tiff, "BLOCK_PX", 300)
    path = tmp_path / "slide.tiff"
    options = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, containers.enlarge(picture, SCALE, SCALE), tile=(256, 256), photometric="rgb", **options)
    with open_image(path) as image:
        sizes = watch_regions(image, monkeypatch)
        grid = cut_patches(image, MODEL)
    assert len(sizes) == 20 and max(max(size) for size in sizes) <= 256
    np.testing.assert_array_equal(grid.thumbnail, picture)
    assert grid.scale == Scale(SCALE, SCALE, (1.0, 1.0), "TIFF", False)
    assert set(map(tuple, grid.coords)) == {(x, y) for x in range(0, 250, 50) for y in range(0, 200, 50)}
    np.testing.assert_array_equal(grid.image_coords, SCALE * grid.coords)
    for (x, y), patch in zip(grid.coords, grid.patches, strict=True):
        np.testing.assert_array_equal(patch, picture[y : y + 50, x : x + 50])


def test_a_scan_that_begins_within_the_slide_is_read_from_there(picture, monkeypatch):
    """As MIRAX and Leica files have it: pixels are counted from the scan's corner, and the rest is not read."""
    whole = np.full((900, 1300, 4), 255, np.uint8)
    whole[70 : 70 + 200, 40 : 40 + 300, :3] = picture

    class Slide:
        dimensions, level_downsamples = (1300, 900), (1.0,)
        properties = dict(zip(("openslide.bounds-x", "openslide.bounds-y", "openslide.bounds-width",
                               "openslide.bounds-height"), ("40", "70", "300", "200"), strict=True))  # fmt: skip

        def __init__(self, path):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read_region(self, corner, level, size):
            return whole[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]

    monkeypatch.setattr(openslide, "OpenSlide", Slide)
    monkeypatch.setattr(reader, "BLOCK_PX", 128)
    scale = Scale(1.0, 1.0, (4.0, 4.0), "user", False)
    with VendorSlide("one.mrxs", "one.mrxs", ExitStack()) as image:
        sizes = watch_regions(image, monkeypatch)
        np.testing.assert_array_equal(read_at_scale(image, scale), picture)
        assert len(sizes) == 6 and max(max(size) for size in sizes) <= 128
        monkeypatch.setattr(patches, "MAX_PIXELS", 1000)
        with pytest.raises(ValueError, match=r"one\.mrxs has 300x200 pixels at the model's scale, more than 1,000"):
            read_at_scale(image, scale)


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"PhysicalSizeX": 1.0}, Mpp(1.0, 1.0, "OME")),
        ({"PhysicalSizeX": 1000.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 2.0}, Mpp(1.0, 2.0, "OME")),
        ({"PhysicalSizeX": 0.001, "PhysicalSizeXUnit": "mm"}, Mpp(1.0, 1.0, "OME")),
        ({}, Mpp(25_400 / 72, 25_400 / 72, "TIFF")),
        ({"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel"}, Mpp(25_400 / 72, 25_400 / 72, "TIFF")),
    ],
)
@pytest.mark.parametrize("tile", [(256, 256), None])
def test_an_ome_tiff_says_its_resolution(picture, tmp_path, described, expected, tile):
    """Before a TIFF's dots per inch, which are those of a screen, as programs write that know no better."""
    dots = {"resolution": (72, 72), "resolutionunit": "INCH"}
    path = tmp_path / "slide.ome.tif"
    tifffile.imwrite(path, picture, tile=tile, photometric="rgb", ome=True, metadata=described, **dots)
    with open_image(path) as image:
        assert image.mpp.source == expected.source
        assert image.mpp[:2] == pytest.approx(expected[:2])


@pytest.mark.parametrize("name", ["broken.svs", "broken.mrxs", "broken.ome.tif", "broken.dcm", "broken.png"])
@pytest.mark.parametrize("data", [b"nothing of the kind", b"II*\0 nor this", bytes(128) + b"DICM or that", b""])
def test_what_is_no_slide_is_named(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ValueError, match=name):
            open_image(source, name)
    with pytest.raises(OSError, match="No such file"):
        open_image(tmp_path / "gone.svs")
