"""Tiles of a slide that are smaller than a patch are completed by those around them."""

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
from tests.predict.test_neighbours import assert_said, rows_of
from tests.slides import containers

FINER = 4  # pixels of a tile for each of the model's
TILE = 128
FINE_MPP = 1.0  # microns a pixel of the tiles: the model's patches have 4


@pytest.fixture
def slide(patches):
    """At the model's scale, 150 x 200 pixels."""
    return patches[:12].reshape(3, 4, 50, 50, 3).swapaxes(1, 2).reshape(150, 200, 3)


@pytest.fixture
def cut(slide, tmp_path):
    """It, at FINER times that scale, in tiles that QuPath exported from twice that; the last ones are narrow."""
    fine = slide.repeat(FINER, 0).repeat(FINER, 1)
    for y in range(0, fine.shape[0], TILE):
        for x in range(0, fine.shape[1], TILE):
            path = tmp_path / f"cut/slide [d=2.0,x={2 * x},y={2 * y},w={2 * TILE},h={2 * TILE}].png"
            write_png(path, fine[y : y + TILE, x : x + TILE])
    return find_paths(tmp_path / "cut")


def test_each_is_judged_with_what_lies_around_it(model, cut, slide, tmp_path):
    """In the middle of a patch, but where the slide ends, and the patch with it; outlines are in the slide's pixels."""
    found = rows_of(model, cut, mpp=FINE_MPP, maps=tmp_path / "maps")
    assert list(found) == cut and len(cut) == 35
    places, last = np.array([parse_tile_name(path.stem)[:2] for path in cut]) // FINER, np.array([150, 100])
    sides = np.minimum(TILE // FINER, last + 50 - places)
    corners = places - (50 - sides) // 2
    corners = np.where(corners < 0, places, np.where(corners > last, places + sides - 50, corners))
    fields = np.stack([slide[top : top + 50, left : left + 50] for left, top in corners])
    assert_said(found, cut, model.predict(fields, places))
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    rings = np.array([one["geometry"]["coordinates"][0] for one in features])
    assert rings.min(1).tolist() == (2 * FINER * places).tolist() and (np.ptp(rings, 1) == 2 * TILE).all()
    picture = decode_image((tmp_path / "maps/slide.map.png").read_bytes(), "map")
    assert picture.std() > 10


def test_without_neighbours_a_tile_is_completed_all_the_same(model, exported, cut):
    alone = models.load(exported, neighbours=False)
    near, apart = (rows_of(one, cut, mpp=FINE_MPP) for one in (model, alone))
    assert {row["verdict"] for row in apart.values()} <= {"scored", "abstained", "out_of_distribution"}
    assert [row["probability"] for row in near.values()] != [row["probability"] for row in apart.values()]


def test_what_has_too_little_around_it_is_refused(model, cut, tmp_path, caplog):
    paths = [path for path in cut if parse_tile_name(path.stem).x < 2 * TILE]
    lone, broken = (tmp_path / f"cut/slide [d=2.0,x={x},y={y},w=256,h=256].png" for x, y in ((6000, 0), (0, 6000)))
    shutil.copy(paths[0], lone)
    broken.write_bytes(paths[0].read_bytes()[:150])
    found = rows_of(model, [*paths, lone, broken], mpp=FINE_MPP)
    assert list(found) == [*paths, lone, broken]
    assert found[lone]["verdict"] == found[broken]["verdict"] == "unreadable"
    assert "unreadable" not in {found[path]["verdict"] for path in paths}
    words = "x=6000,y=0.* with the tiles around it 41 % of one are known, of which 75 % are needed"
    assert re.search(words, caplog.text)
    only = rows_of(model, [lone, broken, paths[0]], mpp=FINE_MPP)
    assert {row["verdict"] for row in only.values()} == {"unreadable"}
    for path in cut:
        path.write_bytes(path.read_bytes()[:150])
    assert {row["verdict"] for row in rows_of(model, cut, mpp=FINE_MPP).values()} == {"unreadable"}


def test_larger_images_of_the_slide_are_judged_by_themselves(model, cut, slide, tmp_path):
    expected = rows_of(model, cut, mpp=FINE_MPP)
    whole = tmp_path / "cut/slide [d=2.0,x=0,y=0,w=1600,h=1200].png"
    write_png(whole, slide.repeat(FINER, 0).repeat(FINER, 1))
    found = rows_of(model, [*cut[:3], whole, *cut[3:]], mpp=FINE_MPP)
    assert {path: found[path] for path in cut} == expected
    assert found[whole]["verdict"] != "unreadable"


def test_another_resolution_of_a_slide_is_another_slide(model, cut, tmp_path):
    expected = rows_of(model, cut, mpp=FINE_MPP)
    others = [path.with_name(re.sub(r"d=2\.0", "d=4.0", path.name)) for path in cut]
    for path, other in zip(cut, others, strict=True):
        shutil.copy(path, other)
    found = rows_of(model, [*cut, *others], mpp=FINE_MPP)
    assert {path: found[path] for path in cut} == expected


@pytest.mark.parametrize(
    ("stretched", "is_scored", "words"),
    [
        (1 / TILE, False, r"named like tiles \(_x<x>_y<y>\), .* 128 pixels wide .* each file is predicted separately"),
        (0.5, False, "its tiles overlap by their names .* but their pixels differ there: the names are not used"),
        (1.5, False, "1 slides are put together from tiles, .* count the tiles' own pixels"),
        (2, True, "1 slides are put together from tiles, .* count 2 pixels for one of a tile's"),
        (1, True, "1 slides are put together from tiles, .* count the tiles' own pixels"),
    ],
)
def test_places_that_cannot_be_a_tiles_own_pixels_are_not_believed(
    model, cut, tmp_path, caplog, stretched, is_scored, words
):
    """Numbers of a grid, or pixels of another resolution, unless of a whole number of the tiles' own."""
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
    image[100:300, 100:300] = containers.enlarge(containers.picture(2, 2), 2, 2)  # seams between tiles are smooth
    return image


def tile_rows(model, folder, step: float = 1.0) -> dict[tuple[int, int], dict]:
    """Rows of tiles with tissue by their place in the slide, its pixels counted at the model's scale."""
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
    """Whatever the size of the tiles, with tiles of glass among them; names in pixels of the full resolution too."""
    write_png(tmp_path / "slide.png", glass_slide)
    whole = {
        (row["x"], row["y"]): row for row in model.predict_image(tmp_path / "slide.png", model.card.microns_per_pixel)
    }
    for y in range(0, 400, side):
        for x in range(0, 400, side):
            name = pattern.format(x=x * step, y=y * step)
            write_png(tmp_path / "tiles" / f"{name}.png", glass_slide[y : y + side, x : x + side])
    rows = tile_rows(model, tmp_path / "tiles", step)
    if pattern == "s_{y}_{x}":
        rows = {(x, y): row for (y, x), row in rows.items()}
    assert set(rows) == set(whole)
    for place, row in rows.items():
        assert (row["label"], row["verdict"]) == (whole[place]["label"], whole[place]["verdict"])
        assert row["probability"] == pytest.approx(whole[place]["probability"], abs=1e-5)


def test_numbers_that_are_on_no_grid_are_no_places(model, glass_slide, tmp_path, caplog):
    """Ids of cases, say, which lie as far apart as tiles might."""
    rng = np.random.default_rng(0)
    for first, second in rng.integers(0, 300, (12, 2)):
        write_png(tmp_path / f"case_{first}_{second}.png", glass_slide[100:150, 100:150])
    with caplog.at_level("WARNING", logger="bcgan"):
        tile_rows(model, tmp_path)
    assert "the names are not used" in caplog.text
