"""Patches of one slide, whose names say where they lie, are judged together and drawn together."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bcgan.predict import model as models
from bcgan.predict import predict
from bcgan.slides.files import find_images
from bcgan.slides.mpp_table import MppChoice
from tests.conftest import write_png
from tests.predict.conftest import command, find_paths, read_patches


def test_neighbours_have_a_say_only_where_places_are_given(model, patches):
    places = np.stack([np.arange(len(patches)), np.zeros(len(patches))], 1).astype(int) * 50
    alone, together = model.probabilities(patches), model.probabilities(patches, places)
    np.testing.assert_array_equal(alone, model.probabilities(patches[::-1])[::-1])
    assert not np.allclose(alone, together)


def test_a_patch_without_neighbours_counts_as_one_by_itself(model, patches):
    """With the calibration and the limits of patches by themselves, where the others lie too far away."""
    far = 50 * 12 + 1
    places = np.array([[0, 0], [50, 0], [50 + far, 0], [50 + 2 * far, 0]])
    together, alone = model.predict(patches[:4], places), model.predict(patches[:4])
    np.testing.assert_array_equal(model.probabilities(patches[:4], places)[2:], model.probabilities(patches[2:4]))
    for values, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(values[2:], expected[2:])
    assert (together.threshold[:2] == model.card.spatial_context_thresholds.malignant).all()
    places[2:, 0] -= 1  # the third is near enough to the second, and the fourth to the third
    assert (model.predict(patches[:4], places).threshold == model.card.spatial_context_thresholds.malignant).sum() == 3


def rows_of(model, paths, mpp: float | None = None, maps: Path | None = None) -> dict[Path, dict]:
    """What predict says of each of these files, in its order."""
    out = io.StringIO()
    predict.predict(model, find_images(map(str, paths)), out, True, MppChoice(mpp), maps)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    return {Path(row["path"]): row for row in rows}


def test_patches_of_one_slide_are_judged_together(model, exported, idc_folder, tmp_path, monkeypatch):
    """Whatever lies between them in the list; what cannot be read, the archive's second copy and what has the same name
    elsewhere are no neighbours."""
    for patient in ("100", "101"):
        shutil.copytree(idc_folder / patient, tmp_path / "archive" / patient)
    slides = [find_paths(tmp_path / "archive" / patient) for patient in ("100", "101")]
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
        patches = read_patches(slide)
        places = np.array([[int(part) for part in re.findall(r"_[xy](\d+)", path.name)] for path in slide])
        assert_said(found, slide, model.predict(patches, places))
    alone = model.predict(read_patches([lone, copy, namesake]))
    assert_said(found, [lone, copy, namesake], alone)
    out = tmp_path / "apart.csv"
    command(*slides[0], "--model", exported, "--no-spatial-context", "--out", out)
    rows = {Path(row["path"]): row for row in csv.DictReader(out.open(encoding="utf-8"))}
    assert_said(rows, slides[0], model.predict(read_patches(slides[0])))


def assert_said(rows: dict[Path, dict], paths: list[Path], expected: models.Predictions) -> None:
    known = expected.verdict < models.OUT_OF_DISTRIBUTION
    assert known.any()
    assert [rows[path]["verdict"] for path in paths] == [models.VERDICTS[verdict] for verdict in expected.verdict]
    said = np.array([rows[path]["probability"] or np.nan for path in paths], float)
    np.testing.assert_allclose(said[known], expected.probability[known], atol=5e-5)


def test_a_larger_image_of_a_slide_does_not_part_its_patches(model, patches, tmp_path):
    paths = [tmp_path / f"slide_x{x}_y1.png" for x in (1, 51, 101, 301, 351)]
    for path, patch in zip(paths, patches, strict=False):
        write_png(path, np.tile(patch, (4, 4, 1)) if path is paths[2] else patch)
    small = [*paths[:2], *paths[3:]]
    found = rows_of(model, paths, model.card.microns_per_pixel)
    places = np.array([[1, 1], [51, 1], [301, 1], [351, 1]])
    assert_said(found, small, model.predict(np.delete(patches[:5], 2, 0), places))


def copy_as_row(idc_folder, folder, step: int) -> list[Path]:
    """Four patches whose names say that they lie so many pixels apart."""
    paths = [folder / f"slide_x{step * number}_y1.png" for number in range(4)]
    for source, target in zip(find_paths(idc_folder)[:4], paths, strict=True):
        shutil.copy(source, target)
    return paths


@pytest.mark.parametrize("step", [1, 12, 16 * 50 + 15])
def test_places_that_cannot_be_pixels_are_not_believed(model, idc_folder, tmp_path, caplog, step):
    """Numbers of a grid, or pixels that are none of the patches' own and no whole number of their sides."""
    paths = copy_as_row(idc_folder, tmp_path, step)
    with caplog.at_level("WARNING", logger="bcgan"):
        found = rows_of(model, paths)
        for words in ("slide: its files are named like tiles (_x<x>_y<y>)", "50 pixels wide", "each file is predicted"):
            assert words in caplog.text
        rows_of(model, paths[:1], maps=tmp_path / "maps")
    assert "maps: no map was drawn: no image is larger than a patch" in caplog.text
    assert_said(found, paths, model.predict(read_patches(paths)))


def test_names_on_a_grid_of_whole_sides_count_pixels_of_the_full_resolution(model, idc_folder, tmp_path, caplog):
    """Which the scan has 16 of for each of the patches': the outlines are in these."""
    paths = copy_as_row(idc_folder, tmp_path, 16 * 50)
    with caplog.at_level("INFO", logger="bcgan"):
        found = rows_of(model, paths, maps=tmp_path / "maps")
    assert "(_x<x>_y<y>, which count 16 pixels for one of a tile's)" in caplog.text
    assert_said(found, paths, model.predict(read_patches(paths), np.array([[50 * number, 0] for number in range(4)])))
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    corners = sorted(np.min(feature["geometry"]["coordinates"][0], 0).tolist() for feature in features)
    np.testing.assert_allclose(corners, [[800 * number, 0] for number in range(4)], atol=16)


def test_a_slide_of_patches_gets_a_map_at_the_names_places(model, patches, tmp_path):
    """At twice the model's scale, as the outlines are, which go by the names."""
    places = [(101, 1), (101, 301), (501, 101)]
    for patch, (x, y) in zip(patches, places, strict=False):
        write_png(tmp_path / f"slide_x{x}_y{y}.png", patch.repeat(2, 0).repeat(2, 1))
    rows_of(model, find_paths(tmp_path), model.card.microns_per_pixel / 2, tmp_path / "maps")
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"slide.geojson", "slide.map.png", "slide.heat.png"}
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    corners = [np.min(one["geometry"]["coordinates"][0], 0) for one in features]
    np.testing.assert_allclose(sorted(map(tuple, corners)), sorted(places), atol=1)


def test_one_patch_far_away_has_its_map_too(model, patches, tmp_path):
    for x in (1, 51, 101, 151, 900_000_001):
        write_png(tmp_path / f"slide_x{x}_y1.png", patches[0])
    rows_of(model, find_paths(tmp_path), maps=tmp_path / "maps")
    assert (tmp_path / "maps/slide.map.png").exists()


def test_places_are_as_many_as_patches_and_none_is_none(model, patches):
    with pytest.raises(ValueError, match=r"coords must be \(3, 2\)"):
        model.predict(patches[:3], np.zeros((2, 2)))
    assert [len(one) for one in model.predict(patches[:0])] == [0] * 6
    places = [[0, 0], [50, 0], [100, 0]]
    found, expected = model.predict(list(patches[:3]), places), model.predict(patches[:3], np.array(places))
    np.testing.assert_array_equal(found.probability, expected.probability)
