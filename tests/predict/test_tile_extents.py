"""Places of tiles whose names state their extent, and of those whose names leave the resolution open."""

import re

import cv2
import numpy as np
import pytest

import bcgan
from bcgan.predict.tile_groups import SlideTiles, find_groups_by_folder, read_group
from bcgan.slides.files import find_images
from bcgan.slides.scale import Mpp
from bcgan.slides.tiles import stated_downsample
from tests.conftest import write_png
from tests.slides import containers

SIDE = 50  # of a tile and of a patch, pixels at the model's scale


@pytest.fixture(scope="module")
def model():
    return bcgan.load()


@pytest.fixture(scope="module")
def slide() -> np.ndarray:
    """Tissue that changes little from pixel to pixel, without glass; uint8, (400, 400, 3)."""
    return cv2.resize(containers.picture(2, 2), (400, 400), interpolation=cv2.INTER_LINEAR)


def write_tiles(folder, slide, step: int, form: str, downsample: float, side: int = SIDE) -> np.ndarray:
    """Write the tiles every `step` pixels, whose names count `downsample` pixels for one; return their corners."""
    starts = range(0, len(slide) - side + 1, step)
    corners = np.array([(x, y) for x in starts for y in starts])
    for number, (x, y) in enumerate(corners):
        left, top, right, bottom = (round(downsample * value) for value in (x, y, x + side, y + side))
        names = {"x": left, "y": top, "right": right, "bottom": bottom, "n": number, "d": downsample}
        name = form.format(**names, w=right - left, h=bottom - top)
        write_png(folder / f"{name}.png", slide[y : y + side, x : x + side])
    return corners


def read_slide(model, folder) -> SlideTiles | str:
    (group,) = find_groups_by_folder(find_images([str(folder)]), model.card.classes)
    return read_group(group, model, lambda _: Mpp(4.0, 4.0, "test"))


def covered_area(corners: np.ndarray) -> int:
    is_covered = np.zeros((400, 400), bool)
    for x, y in corners:
        is_covered[y : y + SIDE, x : x + SIDE] = True
    return int(is_covered.sum())


QUPATH, WITH_DOWNSAMPLE = "s [x={x},y={y},w={w},h={h}]", "s [d={d},x={x},y={y},w={w},h={h}]"
HISTOLAB = "s_tile_{n}_level0_{x}-{y}-{right}-{bottom}"


@pytest.mark.parametrize("step", [10, 25, 40, 50, 75, 100, 150])
@pytest.mark.parametrize(
    ("form", "downsample"),
    [(QUPATH, 1), (WITH_DOWNSAMPLE, 2), (WITH_DOWNSAMPLE, 2.4), (WITH_DOWNSAMPLE, 0.8), (QUPATH, 2),
     (HISTOLAB, 1), (HISTOLAB, 2), (HISTOLAB, 2.4), (HISTOLAB, 4), (HISTOLAB, 0.8)],
)  # fmt: skip
def test_stated_extents_give_the_places_of_tiles_with_gaps_and_overlaps(model, slide, tmp_path, step, form, downsample):
    corners = write_tiles(tmp_path, slide[:200, :200] if step == 10 else slide, step, form, downsample)
    tiles = read_slide(model, tmp_path)
    assert sorted(map(tuple, tiles.corners)) == sorted(map(tuple, corners))
    assert tiles.downsample == pytest.approx(downsample)
    assert tiles.areas.sum() == pytest.approx(covered_area(corners))


@pytest.mark.parametrize("downsample", [3.97, 3.957, 1.97, 0.93])
def test_a_downsample_that_is_stated_is_not_replaced_by_rounded_extents(model, slide, tmp_path, downsample):
    """Otherwise places drift by a pixel for each of a few tiles, and white lines appear between them."""
    corners = write_tiles(tmp_path, slide, SIDE, WITH_DOWNSAMPLE, downsample)
    tiles = read_slide(model, tmp_path)
    assert tiles.downsample == pytest.approx(downsample)
    assert np.abs(np.sort(tiles.corners, axis=0) - np.sort(corners, axis=0)).max() <= (0 if downsample > 1 else 1)


@pytest.mark.parametrize(
    ("stated", "divided_by", "expected"),
    [
        ([], 1, 1.0),
        ([(256, 256), (128, 256)], 1, 1.0),  # a tile that was cut
        ([(128, 256), (256, 256)], 1, 1.0),
        ([(50, 114), (50, 113), (50, 114), (20, 114)], 1, 341 / 150),
        ([(50, 198 / 3.97), (50, 199 / 3.97)], 3.97, 1.0),  # rounded
    ],
)
def test_the_downsample_is_that_of_whole_tiles(stated, divided_by, expected):
    assert stated_downsample(stated, divided_by) == pytest.approx(expected)


@pytest.mark.parametrize("form", [QUPATH, HISTOLAB])
@pytest.mark.parametrize(("step", "num_scored"), [(32, 121), (64, 0)])
def test_a_small_tile_is_not_completed_across_a_gap_that_its_name_states(
    model, slide, tmp_path, form, step, num_scored
):
    corners = write_tiles(tmp_path, slide[: 11 * 32, : 11 * 32], step, form, 1, side=32)
    tiles = read_slide(model, tmp_path)
    assert (len(tiles.rows), len(tiles.reasons)) == (num_scored, len(corners) - num_scored)
    assert all("is smaller than a patch" in reason for reason in tiles.reasons.values())


@pytest.mark.parametrize("form", ["s_x{x}_y{y}", "s_{x}_{y}"])
@pytest.mark.parametrize(
    ("step", "downsample", "words"),
    [
        (50, 1, None),
        (50, 4, None),
        (25, 1, None),
        (40, 1, None),
        (75, 1, None),
        (100, 1, "lie side by side by their places .*, but their edges do not fit"),
        (25, 4, "show the same tissue where they do not overlap"),
        (25, 2, "show the same tissue where they do not overlap"),
        (40, 2.4, "show the same tissue where they do not overlap"),
        (10, 6, "show the same tissue where they do not overlap"),
        (25, 1.5, "overlap by their places .* but their pixels differ there|do not lie side by side"),
    ],
)
def test_places_without_extents_are_used_unless_the_pixels_contradict_them(
    model, slide, tmp_path, form, step, downsample, words
):
    """What the names leave open, which the pixels of the tiles decide."""
    corners = write_tiles(tmp_path, slide, step, form, downsample)
    tiles = read_slide(model, tmp_path)
    if words:
        assert isinstance(tiles, str)
        assert re.search(words, tiles)
    else:
        assert sorted(map(tuple, tiles.corners)) == sorted(map(tuple, corners))
        assert tiles.areas.sum() == pytest.approx(covered_area(corners))


def test_tissue_in_glass_is_no_overlap(model, slide, tmp_path):
    """As cores of an array: the glass between them is alike everywhere."""
    cores = np.random.default_rng(0).normal(245, 1, (400, 400, 3)).clip(0, 255).astype(np.uint8)
    for y in range(0, 400, SIDE):
        for x in range(0, 400, SIDE):
            cores[y + 10 : y + 30, x + 15 : x + 35] = slide[y + 10 : y + 30, x + 15 : x + 35]
    corners = write_tiles(tmp_path, cores, SIDE, "s_x{x}_y{y}", 1)
    assert sorted(map(tuple, read_slide(model, tmp_path).corners)) == sorted(map(tuple, corners))
