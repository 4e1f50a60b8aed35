"""Patches of one slide, whose names say where they lie, are judged together and drawn together."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bcgan.data.records import place_of, slide_of
from bcgan.predict import images, predict
from bcgan.predict import model as models
from tests.conftest import write_png
from tests.predict.conftest import command


def test_neighbours_have_a_say_only_where_places_are_given(model, patches):
    places = np.stack([np.arange(len(patches)), np.zeros(len(patches))], 1).astype(int) * 50
    alone, together = model.predict(patches), model.predict(patches, places)
    np.testing.assert_array_equal(alone.probability, model.predict(patches[::-1])[0][::-1])
    assert not np.allclose(alone.probability, together.probability)


def rows_of(model, paths, **options) -> dict[Path, dict]:
    """What predict says of each of these files, in its order."""
    out = io.StringIO()
    predict.predict(model, paths, out, True, **options)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    return {Path(row["path"]): row for row in rows}


def test_patches_of_one_slide_are_judged_together(model, exported, idc_folder, tmp_path, monkeypatch):
    """Whatever lies between them in the list; what cannot be read, the archive's second copy and what has the same name
    elsewhere are no neighbours."""
    for patient in ("100", "101"):
        shutil.copytree(idc_folder / patient, tmp_path / "archive" / patient)
    slides = [images.find([str(tmp_path / "archive" / patient)]) for patient in ("100", "101")]
    broken = slides[0][0].with_name("100_idx5_x1001_y51_class0.png")
    broken.write_bytes(b"no image")
    lone, copy, namesake = tmp_path / "patch.png", tmp_path / "copy" / slides[0][0].name, tmp_path / slides[0][1].name
    copy.parent.mkdir()
    for source, target in ((slides[0][0], lone), (slides[0][0], copy), (slides[0][1], namesake)):
        shutil.copy(source, target)
    paths = [path for pair in zip(*slides, strict=True) for path in pair]
    paths = [*paths[:5], broken, lone, *paths[5:], copy, namesake]
    found = rows_of(model, paths)
    assert list(found) == [*slides[0][:3], broken, *slides[0][3:], *slides[1], lone, copy, namesake]
    assert found[broken]["verdict"] == "unreadable"
    for slide in slides:
        patches = np.stack([images.read_patch(path, 50) for path in slide])
        places = np.array([[int(part) for part in re.findall(r"_[xy](\d+)", path.name)] for path in slide])
        assert_said(found, slide, model.predict(patches, places))
    alone = model.predict(np.stack([images.read_patch(path, 50) for path in (lone, copy, namesake)]))
    assert_said(found, [lone, copy, namesake], alone)
    out = tmp_path / "apart.csv"
    command(*slides[0], "--model", exported, "--no-neighbours", "--out", out)
    rows = {Path(row["path"]): row for row in csv.DictReader(out.open(encoding="utf-8"))}
    patches = np.stack([images.read_patch(path, 50) for path in slides[0]])
    assert_said(rows, slides[0], model.predict(patches))


def assert_said(rows: dict[Path, dict], paths: list[Path], expected: models.Judged) -> None:
    known = expected.verdict != models.VERDICTS.index("out_of_distribution")
    said = np.array([rows[path]["probability"] or np.nan for path in paths], float)
    np.testing.assert_allclose(said[known], expected.probability[known], atol=1e-5)


def test_a_larger_image_of_a_slide_does_not_part_its_patches(model, patches, tmp_path):
    paths = [tmp_path / f"slide_x{x}_y1.png" for x in (1, 51, 101, 301, 351)]
    for path, patch in zip(paths, patches, strict=False):
        write_png(path, np.tile(patch, (4, 4, 1)) if path is paths[2] else patch)
    small = [*paths[:2], *paths[3:]]
    found = rows_of(model, paths)
    places = np.array([[1, 1], [51, 1], [301, 1], [351, 1]])
    assert_said(found, small, model.predict(np.delete(patches[:5], 2, 0), places))


@pytest.mark.parametrize("name", ["_x0_y0", "s_x99999999999999999999_y0", "s", "s [d=0,x=1,y=1,w=9,h=9]", "[x=1,y=1]"])
def test_what_says_no_place_is_of_no_slide(name):
    assert place_of(name) is None
    assert slide_of([name]) == [name]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("10253_idx5_x1001_y751_class0", (1001, 751)),
        ("s_x2_y3", (2, 3)),
        ("s [x=512,y=1024,w=256,h=256]", (512, 1024)),
        ("s [d=2.5,x=640,y=1280,w=640,h=640]", (256, 512)),
    ],
)
def test_names_of_the_archive_and_of_qupath_say_places(name, place):
    assert place_of(name) == place
    assert slide_of([name])[0] in ("10253_idx5", "s")


@pytest.mark.parametrize(("step", "apart"), [(1, 1), (50 * 16, 800)])
def test_places_that_cannot_be_pixels_are_not_believed(model, idc_folder, tmp_path, caplog, step, apart):
    """Numbers of a grid, or the pixels of a scan at full resolution."""
    real = images.find([str(idc_folder)])[:4]
    paths = [tmp_path / f"slide_x{step * number}_y1.png" for number in range(4)]
    for source, target in zip(real, paths, strict=True):
        shutil.copy(source, target)
    with caplog.at_level("WARNING", logger="bcgan"):
        found = rows_of(model, paths)
        assert f"slide: by their names its patches lie {apart} pixels apart" in caplog.text
        rows_of(model, paths[:1], maps=tmp_path / "maps")
    assert "maps: no map: no image larger than a patch was judged" in caplog.text
    alone = model.predict(np.stack([images.read_patch(path, 50) for path in paths]))
    np.testing.assert_allclose([found[path]["probability"] for path in paths], alone.probability, atol=1e-5)


def test_a_slide_of_patches_gets_a_map_at_the_names_places(model, patches, tmp_path):
    """At twice the model's scale, as the outlines are, which go by the names."""
    places = [(101, 1), (101, 301), (501, 101)]
    for patch, (x, y) in zip(patches, places, strict=False):
        write_png(tmp_path / f"slide_x{x}_y{y}.png", patch.repeat(2, 0).repeat(2, 1))
    paths = images.find([str(tmp_path)])
    rows_of(model, paths, microns_per_pixel=model.card.microns_per_pixel / 2, maps=tmp_path / "maps")
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"slide.geojson", "slide.map.png", "slide.heat.png"}
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    corners = [np.min(one["geometry"]["coordinates"][0], 0) for one in features]
    np.testing.assert_allclose(sorted(map(tuple, corners)), sorted(places), atol=1)


def test_one_patch_far_away_has_its_map_too(model, patches, tmp_path):
    for x in (1, 51, 101, 151, 900_000_001):
        write_png(tmp_path / f"slide_x{x}_y1.png", patches[0])
    rows_of(model, images.find([str(tmp_path)]), maps=tmp_path / "maps")
    assert (tmp_path / "maps/slide.map.png").exists()


@pytest.mark.parametrize("far", [1, 100])
def test_patches_are_put_together_where_they_lie(patches, far):
    places = np.array([[0, 0], [200, 100]]) * far
    image, shown = images.mosaic(patches[:2], places)
    assert max(image.shape[:2]) <= images.BROADEST + 1
    for patch, place in zip(patches, places, strict=False):
        left, top = (place * shown).astype(int)
        side = max(1, round(50 * shown))
        np.testing.assert_allclose(image[top : top + side, left : left + side].mean((0, 1)), patch.mean((0, 1)), atol=1)
    assert (image == 255).all(-1).mean() > 0.7


def test_places_are_as_many_as_patches_and_none_is_none(model, patches):
    with pytest.raises(ValueError, match=r"places must be \(3, 2\)"):
        model.predict(patches[:3], np.zeros((2, 2)))
    assert [len(one) for one in model.predict(patches[:0])] == [0, 0, 0, 0]
    places = [[0, 0], [50, 0], [100, 0]]
    found, expected = model.predict(list(patches[:3]), places), model.predict(patches[:3], np.array(places))
    np.testing.assert_array_equal(found.probability, expected.probability)


@pytest.fixture
def cut(patches, tmp_path):
    """A slide of 150 x 200 pixels at four times the model's scale, cut into tiles of 128 pixels, the last ones narrow;
    and the slide at the model's scale."""
    slide = patches[:12].reshape(3, 4, 50, 50, 3).swapaxes(1, 2).reshape(150, 200, 3)
    fine = slide.repeat(4, 0).repeat(4, 1)
    for y in range(0, 600, 128):
        for x in range(0, 800, 128):
            write_png(
                tmp_path / f"cut/slide [d=2.0,x={2 * x},y={2 * y},w=256,h=256].png", fine[y : y + 128, x : x + 128]
            )
    return images.find([str(tmp_path / "cut")]), slide


def test_tiles_smaller_than_a_patch_are_judged_with_what_lies_around_them(model, cut, tmp_path):
    """Each is in the middle of a patch, but where the slide ends, and the patch with it."""
    paths, slide = cut
    found = rows_of(model, paths, microns_per_pixel=model.card.microns_per_pixel / 4, maps=tmp_path / "maps")
    assert list(found) == paths and len(paths) == 35
    places = np.array([place_of(path.stem) for path in paths]) // 4
    last = [200, 150] - np.array([50, 50])
    sides = np.minimum(32, [200, 150] - places)
    corners = places - (50 - sides) // 2
    corners = np.where(corners < 0, places, np.where(corners > last, places + sides - 50, corners))
    fields = np.stack([slide[top : top + 50, left : left + 50] for left, top in corners])
    assert_said(found, paths, model.predict(fields, places))
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    rings = np.array([one["geometry"]["coordinates"][0] for one in features])
    assert rings.min(1).tolist() == (4 * places).tolist() and (np.ptp(rings, 1) == 128).all()


def test_a_tile_with_too_little_around_it_is_not_judged(model, cut, tmp_path, caplog):
    paths = [path for path in cut[0] if place_of(path.stem)[0] < 256]
    lone = tmp_path / "cut/slide [d=2.0,x=6000,y=0,w=256,h=256].png"
    broken = tmp_path / "cut/slide [d=2.0,x=0,y=6000,w=256,h=256].png"
    shutil.copy(paths[0], lone)
    broken.write_bytes(b"no image")
    found = rows_of(model, [*paths, lone, broken], microns_per_pixel=model.card.microns_per_pixel / 4)
    assert found[lone]["verdict"] == found[broken]["verdict"] == "unreadable"
    assert "unreadable" not in {found[path]["verdict"] for path in paths}
    assert "slide: 1 of 11 tiles have too little around them to make up a patch" in caplog.text
    only = rows_of(model, [paths[0]], microns_per_pixel=model.card.microns_per_pixel / 4)
    assert only[paths[0]]["verdict"] == "unreadable"


def test_tiles_numbered_by_a_grid_are_not_put_together(model, cut, tmp_path, caplog):
    """Nor those whose places are the pixels of a finer scan: there would be gaps between them."""
    for number, path in enumerate(cut[0][:4]):
        shutil.copy(path, tmp_path / f"grid_x{number}_y0.png")
        shutil.copy(path, tmp_path / f"scan_x{256 * number}_y0.png")
    finer = model.card.microns_per_pixel / 4
    for name, words in (("grid", "grid: by their names its patches lie 1 pixels apart"), ("scan", "too little around")):
        found = rows_of(model, images.find([str(tmp_path / f"{name}_*.png")]), microns_per_pixel=finer)
        assert {row["verdict"] for row in found.values()} == {"unreadable"}
        assert words in caplog.text


@pytest.mark.parametrize("scale", [1.0, 3.7, 15.83])
def test_tiles_side_by_side_leave_no_gap_at_any_scale(scale):
    tile = np.zeros((256, 256, 3), np.uint8)
    placed = [images.placed(tile, (x, 256), scale) for x in range(0, 2560, 256)]
    ends = [place[0] + small.shape[1] for small, place in placed]
    assert ends[:-1] == [place[0] for _, place in placed[1:]]
    _, covered = images.around([small for small, _ in placed], np.array([place for _, place in placed]), 50)
    assert (covered == min(1, placed[0][0].shape[0] / 50)).all()
