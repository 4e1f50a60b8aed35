"""The same tissue gives the same patches in every container, at every resolution and on every background."""

import numpy as np
import pytest

from bcgan.slides.patches import cut_patches, read_at_scale
from bcgan.slides.reader import open_image
from bcgan.slides.scale import ModelScale, Mpp, Scale
from tests.slides import containers
from tests.slides.containers import COLUMNS, FLAT, LOSSY, ROWS, SIZE, STATES_MPP

MODEL = ModelScale(SIZE, 4.0, (SIZE, SIZE), 1.0)
EXPECTED_COORDS = [(x * SIZE, y * SIZE) for y in range(ROWS) for x in range(COLUMNS)]
BACKGROUNDS = {"white": (255, 255, 255), "cream": (250, 244, 226), "grey": (205, 206, 205), "black": (0, 0, 0)}


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return containers.picture()


def cut(path, mpp=None):
    with open_image(path) as image:
        return cut_patches(image, MODEL, mpp)


def assert_same(grid, expected: np.ndarray, tolerance: float) -> None:
    assert list(map(tuple, grid.coords)) == EXPECTED_COORDS
    for patch, (x, y) in zip(grid.patches, grid.coords, strict=True):
        difference = np.abs(patch.astype(int) - expected[y : y + SIZE, x : x + SIZE])
        assert difference.mean() <= tolerance
        assert difference.max() <= 60 * tolerance


@pytest.mark.parametrize("mpp", [(0.25, 0.25), (0.5, 0.5), (1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (1.0, 2.0), (4.0, 0.5)])
@pytest.mark.parametrize("name", [*STATES_MPP, *FLAT])
def test_every_container_gives_the_same_patches(tissue, tmp_path, name, mpp):
    """At 0.25 to 4 microns a pixel, equal or unequal along x and y; flat formats get the user's resolution."""
    steps = [round(4 / side) for side in mpp]
    path = containers.write(tmp_path / name, containers.enlarge(tissue, *steps), mpp)
    grid = cut(path, Mpp(*mpp, "user") if name in FLAT else None)
    assert_same(grid, tissue, 1.5 if name in LOSSY else 0)
    assert grid.scale.mpp == pytest.approx(mpp, rel=1e-4)
    assert list(map(tuple, grid.image_coords)) == [(x * steps[0], y * steps[1]) for x, y in EXPECTED_COORDS]
    assert (grid.scale.source == "user") == (name in FLAT)


@pytest.mark.parametrize("step", [1.0, 1.25, 2.5, 3.96, 7.9, 0.5, 0.7])
def test_blocks_leave_no_seam_at_any_scale(tissue, tmp_path, step):
    """Pixels read in small blocks equal those read at once."""
    image = containers.enlarge(tissue, 4, 4)
    scale = Scale(step, step, None, "user", False)
    with open_image(containers.write(tmp_path / "flat.png", image, (1, 1))) as flat:
        expected = read_at_scale(flat, scale)
        flat.block = (97, 61)
        np.testing.assert_array_equal(read_at_scale(flat, scale), expected)
    with open_image(containers.write(tmp_path / "tiles.tif", image, (1, 1))) as tiled:
        tiled.block = (64, 64)
        np.testing.assert_array_equal(read_at_scale(tiled, scale), expected)


def test_shrinking_is_the_mean_by_area():
    """A pixel that a step covers in part counts by that part."""
    row = np.array([0, 100, 200, 250, 50], np.uint8)
    image = np.broadcast_to(row[None, :, None], (5, 5, 3)).copy()
    with open_image(containers.encode("PNG", image)) as opened:
        pixels = read_at_scale(opened, Scale(2.5, 1.0, None, "user", False))
    expected = [(0 + 100 + 200 / 2) / 2.5, (200 / 2 + 250 + 50) / 2.5]
    np.testing.assert_array_equal(pixels[..., 0], np.rint([expected] * 5))


@pytest.mark.parametrize("margin", [(0, 0), (50, 100), (75, 20)])
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_background_changes_no_row(tissue, tmp_path, background, margin):
    """On glass of any colour and beside unscanned areas the coordinates are the same, except in border patches."""
    right, below = margin
    height, width = tissue.shape[:2]
    image = np.empty((height + below, width + right, 3), np.uint8)
    image[:] = BACKGROUNDS[background]
    image[:height, :width] = tissue
    path = containers.write(tmp_path / "tiles.tif", containers.enlarge(image, 2, 2), (2.0, 2.0))
    coords = set(map(tuple, cut(path).coords))
    assert coords >= set(EXPECTED_COORDS)
    beyond = [(x, y) for x, y in coords - set(EXPECTED_COORDS)]
    assert all(x < width and y < height for x, y in beyond)  # no patch without a pixel of the tissue
    if background != "white":
        white = image.copy()
        white[height:], white[:, width:] = 255, 255
        path = containers.write(tmp_path / "white" / "tiles.tif", containers.enlarge(white, 2, 2), (2.0, 2.0))
        assert set(map(tuple, cut(path).coords)) == coords


@pytest.mark.parametrize(
    ("width", "starts"), [(100, [0, 50]), (101, [0, 50, 51]), (149, [0, 50, 99]), (150, [0, 50, 100])]
)
def test_the_last_column_ends_where_the_image_ends(tissue, tmp_path, width, starts):
    """Nothing is padded: every pixel of a patch is a pixel of the image."""
    path = containers.write(tmp_path / "tiles.tif", tissue[:50, :width], (4.0, 4.0))
    grid = cut(path)
    assert [x for x, _ in grid.coords] == starts
    for patch, (x, y) in zip(grid.patches, grid.coords, strict=True):
        np.testing.assert_array_equal(patch, tissue[y : y + 50, x : x + 50])


@pytest.mark.parametrize("name", ["flat.png", "tiles.tif", "ome_strips.ome.tif"])
@pytest.mark.parametrize(("side", "corner"), [(50, 0), (60, 5), (75, 12), (76, None)])
def test_an_image_of_about_a_patch_is_one_patch_in_every_container(tissue, tmp_path, name, side, corner):
    path = containers.write(tmp_path / name, tissue[:side, :side], (4.0, 4.0))
    grid = cut(path, Mpp(4.0, 4.0, "user") if name in FLAT else None)
    assert grid.is_single_patch == (corner is not None)
    if corner is not None:
        assert list(map(tuple, grid.coords)) == [(corner, corner)]
        np.testing.assert_array_equal(grid.patches[0], tissue[corner : corner + 50, corner : corner + 50])


@pytest.mark.parametrize("name", ["flat.png", "tiles.tif", "photo.dcm", "ome_strips.ome.tif"])
@pytest.mark.parametrize("shape", [(49, 50), (50, 49), (1, 50), (20, 20), (49, 120)])
def test_an_image_smaller_than_a_patch_is_refused_in_every_container(tissue, tmp_path, name, shape):
    path = containers.write(tmp_path / name, tissue[: shape[0], : shape[1]], (4.0, 4.0))
    with pytest.raises(ValueError, match=f"{name} is smaller than a patch"):
        cut(path, Mpp(4.0, 4.0, "user") if name in FLAT else None)
