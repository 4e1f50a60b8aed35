"""Tiles of a slide that are smaller than a patch are completed with the tiles around them."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bcgan.predict import model as models
from bcgan.predict.predict import predict
from bcgan.slides.coordinates import parse_tile_name
from bcgan.slides.decode import decode_image
from bcgan.slides.files import find_images
from bcgan.slides.mpp_table import MppChoice
from tests.conftest import write_png
from tests.predict.conftest import find_paths
from tests.predict.test_neighbours import assert_rows_match, rows_of
from tests.slides import containers

FINER = 4  # pixels of a tile for each pixel at the model's scale
TILE = 128
FINE_MPP = 1.0  # microns a pixel of the tiles: the model's patches have 4


@pytest.fixture
def slide(patches):
    """An image of 150 x 200 pixels at the model's scale."""
    return patches[:12].reshape(3, 4, 50, 50, 3).swapaxes(1, 2).reshape(150, 200, 3)


@pytest.fixture
def cut(slide, tmp_path):
    """The slide at FINER times that scale, in tiles exported by QuPath at downsample 2; the last ones are narrow."""
    fine = slide.repeat(FINER, 0).repeat(FINER, 1)
    for y in range(0, fine.shape[0], TILE):
        for x in range(0, fine.shape[1], TILE):
            path = tmp_path / f"cut/slide [d=2.0,x={2 * x},y={2 * y},w={2 * TILE},h={2 * TILE}].png"
            write_png(path, fine[y : y + TILE, x : x + TILE])
    return find_paths(tmp_path / "cut")


def test_each_tile_is_predicted_with_the_tissue_around_it(model, cut, slide, tmp_path):
    """A tile is the centre of its patch, except at the border of the slide; outlines are in the slide's pixels."""
    rows = rows_of(model, cut, mpp=FINE_MPP, maps=tmp_path / "maps")
    assert list(rows) == cut and len(cut) == 35
    places, last = np.array([parse_tile_name(path.stem)[:2] for path in cut]) // FINER, np.array([150, 100])
    tile_sides = np.minimum(TILE // FINER, last + 50 - places)
    corners = places - (50 - tile_sides) // 2
    corners = np.where(corners < 0, places, np.where(corners > last, places + tile_sides - 50, corners))
    fields = np.stack([slide[top : top + 50, left : left + 50] for left, top in corners])
    assert_rows_match(rows, cut, model.predict(fields, places))
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    rings = np.array([feature["geometry"]["coordinates"][0] for feature in features])
    assert rings.min(1).tolist() == (2 * FINER * places).tolist() and (np.ptp(rings, 1) == 2 * TILE).all()
    picture = decode_image((tmp_path / "maps/slide.map.png").read_bytes(), "map")
    assert picture.std() > 10


def test_without_neighbours_a_tile_is_still_completed(model, exported, cut):
    alone = models.load(exported, neighbours=False)
    together, separate = (rows_of(loaded, cut, mpp=FINE_MPP) for loaded in (model, alone))
    assert {row["verdict"] for row in separate.values()} <= {"scored", "abstained", "out_of_distribution"}
    assert [row["probability"] for row in together.values()] != [row["probability"] for row in separate.values()]


def test_a_tile_with_too_little_around_it_is_refused(model, cut, tmp_path, caplog):
    paths = [path for path in cut if parse_tile_name(path.stem).x < 2 * TILE]
    lone, broken = (tmp_path / f"cut/slide [d=2.0,x={x},y={y},w=256,h=256].png" for x, y in ((6000, 0), (0, 6000)))
    shutil.copy(paths[0], lone)
    broken.write_bytes(paths[0].read_bytes()[:150])
    rows = rows_of(model, [*paths, lone, broken], mpp=FINE_MPP)
    assert list(rows) == [*paths, lone, broken]
    assert rows[lone]["verdict"] == rows[broken]["verdict"] == "unreadable"
    assert "unreadable" not in {rows[path]["verdict"] for path in paths}
    words = "x=6000,y=0.* with the tiles around it 41 % of one are known, of which 75 % are needed"
    assert re.search(words, caplog.text)
    only = rows_of(model, [lone, broken, paths[0]], mpp=FINE_MPP)
    assert {row["verdict"] for row in only.values()} == {"unreadable"}
    for path in cut:
        path.write_bytes(path.read_bytes()[:150])
    assert {row["verdict"] for row in rows_of(model, cut, mpp=FINE_MPP).values()} == {"unreadable"}


def test_larger_images_of_the_slide_are_predicted_separately(model, cut, slide, tmp_path):
    expected = rows_of(model, cut, mpp=FINE_MPP)
    large_image = tmp_path / "cut/slide [d=2.0,x=0,y=0,w=1600,h=1200].png"
    write_png(large_image, slide.repeat(FINER, 0).repeat(FINER, 1))
    rows = rows_of(model, [*cut[:3], large_image, *cut[3:]], mpp=FINE_MPP)
    assert {path: rows[path] for path in cut} == expected
    assert rows[large_image]["verdict"] != "unreadable"


def test_another_resolution_of_a_slide_is_another_slide(model, cut, tmp_path):
    expected = rows_of(model, cut, mpp=FINE_MPP)
    coarser = [path.with_name(re.sub(r"d=2\.0", "d=4.0", path.name)) for path in cut]
    for path, copy in zip(cut, coarser, strict=True):
        shutil.copy(path, copy)
    rows = rows_of(model, [*cut, *coarser], mpp=FINE_MPP)
    assert {path: rows[path] for path in cut} == expected


@pytest.mark.parametrize(
    ("stretched", "is_scored", "words"),
    [
        (1 / TILE, False, r"named like tiles \(_x<x>_y<y>\), .* 128 pixels wide .* each file is predicted separately"),
        (0.5, False, "its tiles overlap by their places .* but their pixels differ there: the places are not used"),
        (1.5, False, "1 slides are put together from tiles, .* count the tiles' own pixels"),
        (2, True, "1 slides are put together from tiles, .* count 2 pixels for one of a tile's"),
        (1, True, "1 slides are put together from tiles, .* count the tiles' own pixels"),
    ],
)
def test_coordinates_that_cannot_be_tile_pixels_are_not_used(model, cut, tmp_path, caplog, stretched, is_scored, words):
    """Row and column numbers, or pixels of another resolution that is no whole multiple of the tiles' resolution."""
    expected = rows_of(model, cut, mpp=FINE_MPP)
    renamed = {}
    for path in cut:
        x, y = (round(side * stretched) for side in parse_tile_name(path.stem)[:2])
        renamed[path] = tmp_path / f"renamed/slide_x{x}_y{y}.png"
        renamed[path].parent.mkdir(exist_ok=True)
        shutil.copy(path, renamed[path])
    caplog.clear()
    with caplog.at_level("INFO", logger="bcgan"):
        rows = rows_of(model, find_paths(tmp_path / "renamed"), mpp=FINE_MPP)
    assert re.search(words, caplog.text) and len(rows) == 35
    for path in cut:
        if is_scored:
            assert rows[renamed[path]] == expected[path] | {"path": str(renamed[path])}
        else:
            assert rows[renamed[path]]["verdict"] == "unreadable"


@pytest.fixture(scope="module")
def glass_slide() -> np.ndarray:
    """Four by four patches of tissue with glass around them, at the model's scale."""
    image = np.full((400, 400, 3), 246, np.uint8)
    image[125:325, 125:325] = containers.enlarge(containers.picture(2, 2), 2, 2)  # smooth at the borders of tiles
    return image


def tile_rows(model, folder, step: float = 1.0) -> dict[tuple[int, int], dict]:
    """Rows of tiles with tissue by their coordinates in the slide, in pixels at the model's scale."""
    out = io.StringIO()
    predict(model, find_images([str(folder)]), out, True, MppChoice(model.card.microns_per_pixel))
    rows = {}
    for row in map(json.loads, out.getvalue().splitlines()):
        if row["verdict"] != "no_tissue":
            x, y = (int(number) / step for number in re.findall(r"\d+", Path(row["path"]).stem)[-2:])
            rows[x + row["x"], y + row["y"]] = row
    return rows


@pytest.mark.parametrize(("side", "step", "pattern"), [
    (50, 1, "s_{x}_{y}"), (50, 4, "s_x{x}_y{y}"), (100, 1, "s_{x}_{y}"), (200, 1, "s-{x}-{y}"), (100, 2, "s_{x}_{y}"),
    (50, 1, "s_{y}_{x}"),
])  # fmt: skip
def test_a_slide_in_tiles_has_the_rows_of_the_slide(model, glass_slide, tmp_path, side, step, pattern):
    """For tiles of several sizes, some of them glass, and for names in pixels of the full resolution."""
    write_png(tmp_path / "slide.png", glass_slide)
    slide_rows = {
        (row["x"], row["y"]): row for row in model.predict_image(tmp_path / "slide.png", model.card.microns_per_pixel)
    }
    for y in range(0, 400, side):
        for x in range(0, 400, side):
            name = pattern.format(x=x * step, y=y * step)
            write_png(tmp_path / "tiles" / f"{name}.png", glass_slide[y : y + side, x : x + side])
    rows = tile_rows(model, tmp_path / "tiles", step)
    if pattern == "s_{y}_{x}":
        rows = {(x, y): row for (y, x), row in rows.items()}
    assert set(rows) == set(slide_rows)
    for place, row in rows.items():
        assert (row["label"], row["verdict"]) == (slide_rows[place]["label"], slide_rows[place]["verdict"])
        assert row["probability"] == pytest.approx(slide_rows[place]["probability"], abs=1e-5)


def test_numbers_on_no_grid_are_no_coordinates(model, glass_slide, tmp_path, caplog):
    """Such as ids of cases, which can differ by as much as coordinates of tiles."""
    rng = np.random.default_rng(0)
    for first, second in rng.integers(0, 300, (12, 2)):
        write_png(tmp_path / f"case_{first}_{second}.png", glass_slide[100:150, 100:150])
    with caplog.at_level("WARNING", logger="bcgan"):
        tile_rows(model, tmp_path)
    assert "the names are not used" in caplog.text
