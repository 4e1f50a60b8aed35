"""A tiled TIFF of phantom tissue, read as a whole slide."""

import csv
import io
import sys

import numpy as np
import pytest

from bcgan.data.histology_phantom.tissue import draw
from bcgan.errors import InputError
from bcgan.predict import slides
from bcgan.predict.predict import predict

SCALE = 4  # pixels of the slide for one of the model's


@pytest.fixture(scope="module")
def openslide():
    return pytest.importorskip("openslide", reason="requirements-slides.txt is not installed")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Four by six patches of tissue at the model's scale, a column of glass at the right."""
    patches = draw(24)[0].reshape(4, 6, 50, 50, 3)
    patches[:, -1] = 255
    return patches.transpose(0, 2, 1, 3, 4).reshape(200, 300, 3)


def _write(path, picture: np.ndarray, microns: float | None):
    import tifffile

    enlarged = picture.repeat(SCALE, 0).repeat(SCALE, 1)
    resolution = {"resolution": (1e4 / microns,) * 2, "resolutionunit": "CENTIMETER"} if microns else {}
    tifffile.imwrite(path, enlarged, tile=(256, 256), photometric="rgb", **resolution)
    return path


def test_a_slide_is_read_in_blocks_at_the_models_scale(openslide, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "BLOCK", 300)
    path = _write(tmp_path / "slide.tiff", picture, 1.0)
    assert slides.is_slide(path)
    tiles = slides.read(path, 50, 4.0, 1.0)
    np.testing.assert_array_equal(tiles.image, picture)
    assert tiles.scale == SCALE
    assert set(map(tuple, tiles.places)) == {(x, y) for x in range(0, 250, 50) for y in range(0, 200, 50)}
    for place, patch in zip(tiles.places, tiles.patches, strict=True):
        np.testing.assert_array_equal(patch, picture[place[1] : place[1] + 50, place[0] : place[0] + 50])


def test_a_scan_that_begins_within_the_slide_is_read_from_there(picture, tmp_path, monkeypatch):
    """As MIRAX and Leica files have it: pixels are counted from the scan's corner, and the rest is not read."""
    whole = np.full((900, 1300, 4), 255, np.uint8)
    whole[70 : 70 + 200, 40 : 40 + 300, :3] = picture

    class Slide:
        dimensions, level_downsamples = (1300, 900), (1.0,)
        properties = dict(zip(("openslide.bounds-x", "openslide.bounds-y", "openslide.bounds-width",
                               "openslide.bounds-height"), ("40", "70", "300", "200"), strict=True))  # fmt: skip

        def get_best_level_for_downsample(self, scale):
            return 0

        def read_region(self, place, level, size):
            assert max(size) <= slides.BLOCK
            return whole[place[1] : place[1] + size[1], place[0] : place[0] + size[0]]

    monkeypatch.setattr(slides, "BLOCK", 128)
    np.testing.assert_array_equal(slides._at_scale(Slide(), 1.0, tmp_path / "one.mrxs"), picture)
    monkeypatch.setattr(slides, "LARGEST_IMAGE", 1000)
    with pytest.raises(ValueError, match="300x200 pixels at the model's scale, more than 1000"):
        slides._at_scale(Slide(), 1.0, tmp_path / "one.mrxs")


def test_rows_are_in_the_slides_own_pixels(openslide, model, picture, tmp_path, monkeypatch):
    path, out = _write(tmp_path / "slide.tiff", picture, 1.0), io.StringIO()
    monkeypatch.setattr(model, "card", model.card.model_copy(update={"microns_per_pixel": 4.0}))
    predict(model, [path], out, False, 1.0, tmp_path / "maps")
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert {int(row["x"]) for row in rows} == set(range(0, 1000, 200))
    assert (tmp_path / "maps" / "slide.tiff.map.png").exists()


def test_a_slide_without_a_resolution_asks_for_it(openslide, picture, tmp_path):
    path = _write(tmp_path / "slide.tiff", picture, None)
    with pytest.raises(ValueError, match="--mpp"):
        slides.read(path, 50, 4.0)


@pytest.mark.parametrize(("size", "unit"), [(1.0, None), (1.0, "µm"), (1000.0, "nm"), (0.001, "mm")])
def test_an_ome_tiff_says_its_resolution(openslide, picture, tmp_path, size, unit):
    import tifffile

    path, enlarged = tmp_path / "slide.ome.tif", picture.repeat(SCALE, 0).repeat(SCALE, 1)
    described = {"PhysicalSizeX": size} | ({"PhysicalSizeXUnit": unit} if unit else {})
    dots = {"resolution": (72, 72), "resolutionunit": "INCH"}  # of a screen, as software writes that knows no better
    tifffile.imwrite(path, enlarged, tile=(256, 256), photometric="rgb", ome=True, metadata=described, **dots)
    assert slides.is_slide(path)
    assert slides.read(path, 50, 4.0).scale == SCALE


@pytest.mark.parametrize("described", ["", "<OME/>", *(f'PhysicalSizeX="{x}"' for x in ("x", "0", "-1", "inf", "nan")),
                                       'PhysicalSizeX="1" PhysicalSizeXUnit="pixel"'])  # fmt: skip
def test_a_description_that_says_no_resolution_asks_for_it(described):
    assert slides._microns({"tiff.ImageDescription": described}) is None
    assert slides._microns({"tiff.ImageDescription": described, "openslide.mpp-x": "0.25"}) == 0.25


def test_what_is_no_slide_is_named(openslide, tmp_path):
    path = tmp_path / "broken.svs"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="broken.svs"):
        slides.read(path, 50, 4.0)


def test_without_openslide_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = tmp_path / "a.svs"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="requirements-slides"):
        slides.read(path, 50, 4.0)
