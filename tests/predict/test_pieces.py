"""Tiles of a slide that are smaller than a patch are completed by those around them."""

import json
import re
import shutil

import numpy as np
import pytest

from bcgan.data.records import place_of
from bcgan.predict import images, maps, pieces
from bcgan.predict import model as models
from tests.conftest import write_png
from tests.predict.test_neighbours import assert_said, rows_of

FINER = 4  # pixels of a tile for each of the model's
TILE = 128


@pytest.mark.parametrize(
    "name",
    ["_x0_y0", "s_x99999999999999999999_y0", "s", "s [d=0,x=1,y=1,w=9,h=9]", "[x=1,y=1,w=9,h=9]", "s [x=1,y=1]"],
)
def test_what_says_no_place_is_of_no_slide(name):
    assert place_of(name) is None


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("10253_idx5_x1001_y751_class0", (1001, 751, "10253_idx5", 1)),
        ("s_x2_y3", (2, 3, "s", 1)),
        ("s [x=512,y=1024,w=256,h=256]", (512, 1024, "s", 1)),
        ("s [d=2.5,x=640,y=1280,w=640,h=640]", (256, 512, "s", 2.5)),
        ("s [d=0.5,x=64,y=128,w=64,h=64,z=1].ome", (128, 256, "s,z=1", 0.5)),
        ("s_x1_y2_b [d=2,x=64,y=128,w=64,h=64]", (32, 64, "s_x1_y2_b", 2)),
    ],
)
def test_names_of_the_archive_and_of_qupath_say_places(name, place):
    assert place_of(name) == place


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
    return images.find([str(tmp_path / "cut")])


def test_each_is_judged_with_what_lies_around_it(model, cut, slide, tmp_path):
    """In the middle of a patch, but where the slide ends, and the patch with it; outlines are in the slide's pixels."""
    found = rows_of(model, cut, microns_per_pixel=model.card.microns_per_pixel / FINER, maps=tmp_path / "maps")
    assert list(found) == cut and len(cut) == 35
    places, last = np.array([place_of(path.stem)[:2] for path in cut]) // FINER, np.array([150, 100])
    sides = np.minimum(TILE // FINER, last + 50 - places)
    corners = places - (50 - sides) // 2
    corners = np.where(corners < 0, places, np.where(corners > last, places + sides - 50, corners))
    fields = np.stack([slide[top : top + 50, left : left + 50] for left, top in corners])
    assert_said(found, cut, model.predict(fields, places))
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    rings = np.array([one["geometry"]["coordinates"][0] for one in features])
    assert rings.min(1).tolist() == (2 * FINER * places).tolist() and (np.ptp(rings, 1) == 2 * TILE).all()
    picture = images.images.decode((tmp_path / "maps/slide.map.png").read_bytes(), "map")
    assert picture.std() > 10


def test_without_neighbours_a_tile_is_completed_all_the_same(model, exported, cut):
    alone = models.load(exported, neighbours=False)
    near, apart = (rows_of(one, cut, microns_per_pixel=model.card.microns_per_pixel / FINER) for one in (model, alone))
    assert {row["verdict"] for row in apart.values()} <= {"scored", "abstained", "out_of_distribution"}
    assert [row["probability"] for row in near.values()] != [row["probability"] for row in apart.values()]


def test_what_has_too_little_around_it_is_refused(model, cut, tmp_path, caplog):
    paths = [path for path in cut if place_of(path.stem).x < 2 * TILE]
    lone, broken = (tmp_path / f"cut/slide [d=2.0,x={x},y={y},w=256,h=256].png" for x, y in ((6000, 0), (0, 6000)))
    shutil.copy(paths[0], lone)
    broken.write_bytes(paths[0].read_bytes()[:150])
    finer = model.card.microns_per_pixel / FINER
    found = rows_of(model, [*paths, lone, broken], microns_per_pixel=finer)
    assert list(found) == [*paths, lone, broken]
    assert found[lone]["verdict"] == found[broken]["verdict"] == "unreadable"
    assert "unreadable" not in {found[path]["verdict"] for path in paths}
    assert "slide: 11 of 12 files are smaller than a patch, of which 10 are judged" in caplog.text
    only = rows_of(model, [lone, broken, paths[0]], microns_per_pixel=finer)
    assert {row["verdict"] for row in only.values()} == {"unreadable"}
    for path in cut:
        path.write_bytes(path.read_bytes()[:150])
    assert {row["verdict"] for row in rows_of(model, cut, microns_per_pixel=finer).values()} == {"unreadable"}


def test_larger_images_of_the_slide_are_judged_by_themselves(model, cut, slide, tmp_path):
    finer = model.card.microns_per_pixel / FINER
    expected = rows_of(model, cut, microns_per_pixel=finer)
    whole = tmp_path / "cut/slide [d=2.0,x=0,y=0,w=1600,h=1200].png"
    write_png(whole, slide.repeat(FINER, 0).repeat(FINER, 1))
    found = rows_of(model, [*cut[:3], whole, *cut[3:]], microns_per_pixel=finer)
    assert {path: found[path] for path in cut} == expected
    assert found[whole]["verdict"] != "unreadable"


def test_another_resolution_of_a_slide_is_another_slide(model, cut, tmp_path):
    finer = model.card.microns_per_pixel / FINER
    expected = rows_of(model, cut, microns_per_pixel=finer)
    others = [path.with_name(re.sub(r"d=2\.0", "d=4.0", path.name)) for path in cut]
    for path, other in zip(cut, others, strict=True):
        shutil.copy(path, other)
    found = rows_of(model, [*cut, *others], microns_per_pixel=finer)
    assert {path: found[path] for path in cut} == expected


@pytest.mark.parametrize(
    ("stretched", "words"),
    [
        (1 / TILE, "slide: by their names its patches lie 1 pixels apart, and are 128 wide; places are not used"),
        (0.5, "slide: its patches overlap by their names, and do not look alike there; places are not used"),
        (2, "35 of 35 files are smaller than a patch, of which 0 are judged .* lie 256 pixels apart, and are 128 wide"),
        (
            1,
            "35 of 35 files are smaller than a patch, of which 35 are judged .* they lie 128 pixels apart, and are 128",
        ),
    ],
)
def test_places_that_cannot_be_a_tiles_own_pixels_are_not_believed(model, cut, tmp_path, caplog, stretched, words):
    """Numbers of a grid, or the pixels of another resolution."""
    for path in cut:
        x, y = (round(side * stretched) for side in place_of(path.stem)[:2])
        target = tmp_path / f"renamed/slide_x{x}_y{y}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    found = rows_of(
        model, images.find([str(tmp_path / "renamed")]), microns_per_pixel=model.card.microns_per_pixel / FINER
    )
    assert len(found) == 35 and ("unreadable" in {row["verdict"] for row in found.values()}) == (stretched != 1)
    assert re.search(words, caplog.text)


@pytest.mark.parametrize("scale", [0.7, 7.3, 15.83])
def test_tiles_side_by_side_leave_no_gap_at_any_scale(scale):
    side = round(32 * scale)
    placed = [pieces.placed(np.zeros((side, side, 3), np.uint8), (x, 5), scale) for x in range(0, 10 * side, side)]
    ends = [place[0] + tile.shape[1] for tile, place in placed]
    assert ends[:-1] == [place[0] for _, place in placed[1:]]
    _, covered, _ = pieces.around([tile for tile, _ in placed], np.array([place for _, place in placed]), 50)
    np.testing.assert_allclose(covered, placed[0][0].shape[0] / 50)


def test_a_tile_keeps_its_own_pixels_and_what_is_unknown_is_glass():
    tiles = [np.full((20, 20, 3), 10 * number, np.uint8) for number in (1, 2, 3)]
    patches, covered, unlike = pieces.around(tiles, np.array([[0, 0], [15, 0], [15, 0]]), 50)
    for patch, number in zip(patches, (1, 2, 3), strict=True):
        assert (patch == 10 * number).all(-1).sum() == 400
        assert (patch == 255).all(-1).sum() == 2500 - 35 * 20
    np.testing.assert_allclose(covered, 35 * 20 / 2500)
    assert 10 < unlike < 20


@pytest.mark.parametrize(("height", "enough"), [(37, False), (38, True)])
def test_three_quarters_of_a_patch_have_to_be_known(tmp_path, slide, height, enough):
    for x in (0, 25):
        write_png(tmp_path / f"slide_x{x}_y0.png", slide[:height, x : x + 25])
    paths = images.find([str(tmp_path)])
    found = pieces.complete(paths, pieces.lengths(paths), 1.0, 50)
    assert len(found.pieces) == 2 * enough and found.small == 2


def test_tiles_that_would_be_enlarged_too_much_are_refused(tmp_path, slide):
    for x in range(0, 10, 2):
        write_png(tmp_path / f"slide_x{x}_y0.png", slide[:2, x : x + 2])
    paths = images.find([str(tmp_path)])
    assert not pieces.complete(paths, pieces.lengths(paths), 0.1, 50).pieces
    assert pieces.lengths([*paths, tmp_path / "none.png"]) == [2] * 5 + [0]


def test_a_maps_squares_are_as_large_as_the_tiles():
    card = models.Card.model_validate_json((models.SHIPPED / models.CARD).read_text("utf-8"))
    image = np.zeros((32, 64, 3), np.uint8)
    tiles = images.Tiles(np.zeros((1, 50, 50, 3), np.uint8), np.array([[0, 0]]), 1.0, image, False, 1.0, 32)
    found = models.Judged(np.array([0.9]), np.zeros(1), np.ones(1, int), np.zeros(1, int))
    over = maps.squares(tiles, found, card, 1.0, (32, 64), 1.0)
    assert (over[:, :32, 3] == 1).all() and (over[:, 32:, 3] == 0).all()
