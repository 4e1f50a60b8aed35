"""The coordinates of tiles from their names, and the completion of tiles with the tiles around them."""

import numpy as np
import pytest

from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.slides.coordinates import parse_tile_name
from bcgan.slides.reader import FlatImage
from bcgan.slides.scale import Scale
from bcgan.slides.tiles import (
    MAX_MOSAIC_PX,
    Tile,
    complete_tiles,
    draw_mosaic,
    find_downsample,
    overlap_difference,
    read_tile,
)


@pytest.mark.parametrize(
    "name",
    ["_x0_y0", "s_x99999999999999999999_y0", "s", "s [d=0,x=1,y=1,w=9,h=9]", "[x=1,y=1,w=9,h=9]", "s [x=1,y=1]",
     "s_512", "_512_0", "512_0", "s_512_0_b"],
)  # fmt: skip
def test_names_without_coordinates_are_no_tiles(name):
    assert parse_tile_name(name) is None


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("10253_idx5_x1001_y751_class0", (1001, 751, "10253_idx5", 1)),
        ("s_x2_y3", (2, 3, "s", 1)), ("s_x2_y3.png", (2, 3, "s", 1)), ("s-x-2-y-3.tif", (2, 3, "s", 1)),
        ("s x=2,y=3.jpg", (2, 3, "s", 1)), ("a b_X2_Y3_tissue", (2, 3, "a b", 1)),
        ("s [x=512,y=1024,w=256,h=256]", (512, 1024, "s", 1)),
        ("s [d=2.5,x=640,y=1280,w=640,h=640]", (256, 512, "s", 2.5)),
        ("s [d=0.5,x=64,y=128,w=64,h=64,z=1].ome", (128, 256, "s,z=1", 0.5)),
        ("s [d=2,x=64,y=128,w=64,h=64].ome.tif", (32, 64, "s", 2)),
        ("s_x1_y2_b [d=2,x=64,y=128,w=64,h=64]", (32, 64, "s_x1_y2_b", 2)),
        ("s_512_1024.png", (512, 1024, "s", 1)), ("s-512-1024.jpg", (512, 1024, "s", 1)),
        ("TCGA-A1-A0SB_(512,0).png", (512, 0, "TCGA-A1-A0SB", 1)), ("s.svs_0_256.png", (0, 256, "s.svs", 1)),
        ("s_tile_7_level0_512-0-768-256.png", (512, 0, "s", 1)),
        ("s\n_x2_y3", (2, 3, "s\n", 1)),
    ],
)  # fmt: skip
def test_names_of_common_tools_give_slide_and_coordinates(name, place):
    assert parse_tile_name(name)[:4] == place


@pytest.mark.parametrize(
    ("name", "extent"),
    [
        ("s [x=512,y=1024,w=256,h=128]", 256), ("s [d=2.5,x=640,y=1280,w=320,h=640]", 256), ("s [x=1,y=1,w=0,h=0]", 0),
        ("s_tile_7_level0_512-0-768-128.png", 256), ("s_tile_7_level-1_512-0-612-120", 120),
        ("s_tile_7_level0_512-100-256-90", 0), ("s_x1_y2", 0), ("s_1_2", 0),
    ],
)  # fmt: skip
def test_names_state_the_extent_of_a_tile_in_the_pixels_of_its_place(name, extent):
    assert parse_tile_name(name).extent == extent


def test_levels_of_a_slide_are_two_slides():
    names = ("s_tile_7_level0_512-0-768-256", "s_tile_7_level2_512-0-1536-1024")
    assert [parse_tile_name(name).slide for name in names] == ["s", "s level 2"]


def grid(columns: int, rows: int, step: float) -> np.ndarray:
    return np.array([(x * step, y * step) for y in range(rows) for x in range(columns)]).round().astype(int)


@pytest.mark.parametrize(
    ("coordinates", "downsample"),
    [
        (grid(4, 3, 100), 1.0), (grid(4, 3, 80), 1.0), (grid(4, 3, 25), 1.0), (grid(4, 3, 150), 1.0),
        (grid(4, 3, 24), None), (grid(9, 9, 1), None), (grid(4, 3, 1250), None), (grid(1, 1, 0), None),
        (grid(4, 3, 400), 4.0), (grid(4, 3, 1600), 16.0), (grid(40, 30, 400.02), 4.0), (grid(3, 1, 400), 1.0),
        (grid(4, 3, 400) + 7, 4.0), (np.delete(grid(6, 6, 400), [7, 14, 21], 0), 4.0),
        (np.array([(0, 0), (400, 0), (0, 1200), (800, 2400), (2400, 800), (2000, 0)]), 1.0),  # some of the tiles only
        (grid(20, 20, 401), 4.01), (grid(20, 20, 100)[::7], 1.0), (grid(20, 20, 400)[::7], 4.0),
        (np.concatenate([grid(4, 3, 400), [(130, 0)]]), 1.0),
    ],
)  # fmt: skip
def test_names_on_a_grid_of_whole_tiles_count_pixels_of_another_resolution(coordinates, downsample):
    assert find_downsample(coordinates, 100.0, 12.0) == (downsample and pytest.approx(downsample, rel=1e-3))


@pytest.mark.parametrize("scale", [0.7, 7.3, 15.83])
def test_tiles_side_by_side_leave_no_gap_at_any_scale(scale):
    side = round(32 * scale)
    image = FlatImage(np.zeros((side, side, 3), np.uint8), "tile")
    steps = Scale(scale, scale, None, "user", True)
    names = [f"s_x{x}_y5" for x in range(0, 10 * side, side)]
    tiles = [read_tile(image, steps, parse_tile_name(name)) for name in names]
    ends = [tile.corner[0] + tile.pixels.shape[1] for tile in tiles]
    assert ends[:-1] == [tile.corner[0] for tile in tiles[1:]]
    np.testing.assert_allclose(complete_tiles(tiles, 50)[1], tiles[0].pixels.shape[0] / 50)


def test_pixels_that_are_not_square_become_square():
    image = FlatImage(np.zeros((60, 60, 3), np.uint8), "tile")
    tile = read_tile(image, Scale(2.0, 3.0, None, "user", True), parse_tile_name("s_x120_y120"))
    assert tile.pixels.shape == (20, 30, 3) and tile.corner.tolist() == [60, 40]


def test_a_tile_keeps_its_pixels_and_unknown_areas_become_glass():
    corners = ((0, 0), (15, 0), (15, 0))
    tiles = [Tile(np.full((20, 20, 3), 10 * number, np.uint8), np.array(corner))
             for number, corner in enumerate(corners, 1)]  # fmt: skip
    patches, covered = complete_tiles(tiles, 50)
    for patch, number in zip(patches, (1, 2, 3), strict=True):
        assert (patch == 10 * number).all(-1).sum() == 400
        assert (patch == 255).all(-1).sum() == 2500 - 35 * 20
    np.testing.assert_allclose(covered, 35 * 20 / 2500)
    assert 10 < overlap_difference(tiles) < 20


@pytest.mark.parametrize("far", [1, 100])
def test_a_mosaic_has_each_patch_at_its_corner(far):
    patches, corners = example_patches(2)[0], np.array([[0, 0], [200, 100]]) * far
    image, zoom = draw_mosaic(patches, corners)
    assert max(image.shape[:2]) <= MAX_MOSAIC_PX + 1
    for patch, corner in zip(patches, corners, strict=True):
        left, top = (corner * zoom).astype(int)
        side = max(1, round(50 * zoom))
        np.testing.assert_allclose(image[top : top + side, left : left + side].mean((0, 1)), patch.mean((0, 1)), atol=1)
    assert (image == 255).all(-1).mean() > 0.7
