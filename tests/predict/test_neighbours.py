"""Patches of one slide, whose names say where they lie, are judged together and drawn together."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize(("step", "apart"), [(1, 1), (50 * 16, 800)])
def test_places_that_cannot_be_pixels_are_not_believed(model, idc_folder, tmp_path, caplog, step, apart):
    """Numbers of a grid, or the pixels of a scan at full resolution."""
    real = images.find([str(idc_folder)])[:4]
    paths = [tmp_path / f"slide_x{step * number}_y1.png" for number in range(4)]
    for source, target in zip(real, paths, strict=True):
        shutil.copy(source, target)
    with caplog.at_level("WARNING", logger="bcgan"):
        found = rows_of(model, paths)
        assert f"slide: by their names its patches lie {apart} pixels apart, and are 50 wide" in caplog.text
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
