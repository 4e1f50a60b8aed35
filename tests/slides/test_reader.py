"""Slides are read in blocks, from the corner of the scan, at the resolution that takes precedence."""

import time
from contextlib import ExitStack
from threading import Barrier

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from bcgan.slides import patches, reader, tiff
from bcgan.slides.base import SlideImage
from bcgan.slides.decode import decode_image
from bcgan.slides.patches import cut_patches, read_at_scale
from bcgan.slides.reader import VendorSlide, open_image
from bcgan.slides.scale import ModelScale, Mpp, Scale
from tests.slides import containers

RNG = np.random.default_rng(0)
MODEL = ModelScale(50, 4.0, (50, 50), 1.0)
SCALE = 4  # pixels of the slide for one pixel at the model's scale


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Four by six patches of tissue at the model's scale, a column of glass at the right."""
    image = containers.picture(4, 6)
    image[:, 250:] = 255
    return image


def watch_regions(image, monkeypatch) -> list[tuple[int, int]]:
    """Return a list that gets the (width, height) of every region that is read from now on."""
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
    """As in MIRAX and Leica files: coordinates start at the corner of the scan, and only the scan is read."""
    slide_pixels = np.full((900, 1300, 4), 255, np.uint8)
    slide_pixels[70 : 70 + 200, 40 : 40 + 300, :3] = picture

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
            return slide_pixels[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]

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
def test_an_ome_tiff_states_its_resolution(picture, tmp_path, described, expected, tile):
    """It takes precedence over the dots per inch of the TIFF, which many programs set to those of a screen."""
    dots = {"resolution": (72, 72), "resolutionunit": "INCH"}
    path = tmp_path / "slide.ome.tif"
    tifffile.imwrite(path, picture, tile=tile, photometric="rgb", ome=True, metadata=described, **dots)
    with open_image(path) as image:
        assert image.mpp.source == expected.source
        assert image.mpp[:2] == pytest.approx(expected[:2])


class ThreadedImage(SlideImage):
    """An image of 4 x 3 blocks: a block is returned only while another one is read. All blocks can be damaged."""

    has_parallel_reads = True

    def __init__(self, picture: np.ndarray, damaged: bool = False):
        super().__init__("image", [(picture.shape[1], picture.shape[0])], None, (80, 80))
        self._picture, self._damaged, self._barrier = picture, damaged, Barrier(2, timeout=30)
        self.corners: list[tuple[int, int]] = []

    def read_region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        self.corners.append((x, y))
        if self._damaged:
            time.sleep(0.05 * (len(self.corners) > 1))  # leaves time to cancel the blocks that wait
            raise ValueError("image is damaged")
        self._barrier.wait()
        return self._picture[y : y + height, x : x + width]


def test_blocks_are_read_side_by_side_and_put_in_their_places(picture, monkeypatch):
    monkeypatch.setattr(patches.os, "cpu_count", lambda: 2)
    image = ThreadedImage(picture)
    np.testing.assert_array_equal(read_at_scale(image, Scale(1.0, 1.0, None, "user", False)), picture)
    assert sorted(image.corners) == [(x, y) for x in (0, 80, 160, 240) for y in (0, 80, 160)]


def test_a_damaged_block_stops_the_reading(picture, monkeypatch):
    monkeypatch.setattr(patches.os, "cpu_count", lambda: 2)
    image = ThreadedImage(picture, damaged=True)
    with pytest.raises(ValueError, match="damaged"):
        read_at_scale(image, Scale(1.0, 1.0, None, "user", False))
    assert len(image.corners) < 12


@pytest.mark.parametrize("name", ["broken.svs", "broken.mrxs", "broken.ome.tif", "broken.dcm", "broken.png"])
@pytest.mark.parametrize("data", [b"nothing of the kind", b"II*\0 nor this", bytes(128) + b"DICM or that", b""])
def test_a_file_that_is_no_slide_is_named(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ValueError, match=name):
            open_image(source, name)
    with pytest.raises(OSError, match="No such file"):
        open_image(tmp_path / "gone.svs")


def test_a_reduced_page_of_another_image_is_no_level(tmp_path, caplog):
    first, second = (np.full((200, 300, 3), level, np.uint8) for level in (100, 200))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(first, photometric="rgb", metadata=None)
        tiff.write(second, photometric="rgb", metadata=None)
        tiff.write(second[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
    with open_image(tmp_path / "a.tif") as image:
        assert image.sizes == [(300, 200)]
        assert (image.read_region(0, 0, 0, 300, 200) == 100).all()


@pytest.mark.parametrize("name", ["P1_label_free.svs", "Overview scan", "macrometastasis"])
def test_a_scan_whose_name_contains_label_or_macro_is_still_read(tmp_path, name):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        tiff.write(np.zeros((40, 40, 3), np.uint8), photometric="rgb", metadata={"axes": "YXS"})
        tiff.write(np.zeros((90, 80, 3), np.uint8), photometric="rgb", metadata={"axes": "YXS", "Name": name})
    with open_image(tmp_path / "a.ome.tif") as image:
        assert image.size == (80, 90)


def test_uncompressed_ycbcr_becomes_rgb(tmp_path):
    pixels = RNG.integers(30, 220, (60, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert("YCbCr").save(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as image:
        assert np.abs(image.read_region(0, 0, 0, 70, 60).astype(int) - pixels).mean() < 2


@pytest.mark.parametrize("bits", [10, 12, 13, 14, 15])
def test_16_bit_images_of_fewer_used_bits_are_refused(tmp_path, bits):
    pixels = RNG.integers(0, 2**bits, (60, 70, 3)).astype(np.uint16)
    pixels[3, 3] = 65535  # a hot pixel
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None)
    with pytest.raises(ValueError, match=f"a.tif has 16-bit pixels of which {bits} bits are used"):
        decode_image((tmp_path / "a.tif").read_bytes(), "a.tif")


@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_a_stack_of_three_is_no_colour_image(tmp_path, axes, caplog):
    planes = RNG.integers(0, 255, (3, 60, 70), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, ome=True, metadata={"axes": axes})
    with open_image(tmp_path / "a.ome.tif") as image:
        np.testing.assert_array_equal(image.read_region(0, 0, 0, 70, 60)[..., 1], planes[0])
    assert "the first is read" in caplog.text


@pytest.mark.parametrize("bits", [1, 8])
def test_a_palette_of_any_number_of_bits_gives_its_colors(tmp_path, bits):
    """Pixels of one bit are truth values, which must not select rows of the palette as a mask does."""
    colors = np.array([[60000, 65535], [10000, 64000], [40000, 65000]], np.uint16)
    path, indices = tmp_path / "palette.tif", RNG.integers(0, 2, (64, 72), dtype=np.uint8)
    palette = np.pad(colors, ((0, 0), (0, 2**bits - 2)))
    tags = [(320, "H", palette.size, palette.ravel().tolist(), True)]
    tifffile.imwrite(path, indices.astype(bool if bits == 1 else np.uint8), photometric="minisblack", extratags=tags)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(3)
    with open_image(path) as image:
        pixels = image.read_region(0, 0, 0, 72, 64)
    np.testing.assert_array_equal(pixels, (colors >> 8).T.astype(np.uint8)[indices])
