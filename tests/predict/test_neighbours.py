"""Patches of one slide, whose names have coordinates, are predicted together and drawn on one map."""

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


def test_neighbours_count_only_where_coordinates_are_given(model, patches):
    places = np.stack([np.arange(len(patches)), np.zeros(len(patches))], 1).astype(int) * 50
    alone, together = model.probabilities(patches), model.probabilities(patches, places)
    np.testing.assert_array_equal(alone, model.probabilities(patches[::-1])[::-1])
    assert not np.allclose(alone, together)


def test_a_patch_without_neighbours_is_predicted_as_a_single_patch(model, patches):
    """Patches that are far from the others get the calibration and the thresholds of single patches."""
    far = 50 * 12 + 1
    places = np.array([[0, 0], [50, 0], [50 + far, 0], [50 + 2 * far, 0]])
    together, alone = model.predict(patches[:4], places), model.predict(patches[:4])
    np.testing.assert_array_equal(model.probabilities(patches[:4], places)[2:], model.probabilities(patches[2:4]))
    for values, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(values[2:], expected[2:])
    assert (together.threshold[:2] == model.card.spatial_context_thresholds.malignant).all()
    places[2:, 0] -= 1  # now the third patch is near enough to the second; the fourth is not
    assert (model.predict(patches[:4], places).threshold == model.card.spatial_context_thresholds.malignant).sum() == 3


def rows_of(model, paths, mpp: float | None = None, maps: Path | None = None) -> dict[Path, dict]:
    """The row that predict writes for each of these files, in its order."""
    out = io.StringIO()
    predict.predict(model, find_images(map(str, paths)), out, True, MppChoice(mpp), maps)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    return {Path(row["path"]): row for row in rows}


def test_patches_of_one_slide_are_predicted_together(model, exported, idc_folder, tmp_path, monkeypatch):
    """In any order of the list. Unreadable files, a second copy in the archive and files of the same name in another
    folder are no neighbours."""
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
    rows_by_path = rows_of(model, paths)
    assert list(rows_by_path) == [*slides[0][:3], broken, *slides[0][3:], *slides[1], lone, copy, namesake]
    assert rows_by_path[broken]["verdict"] == "unreadable"
    for slide in slides:
        patches = read_patches(slide)
        places = np.array([[int(part) for part in re.findall(r"_[xy](\d+)", path.name)] for path in slide])
        assert_rows_match(rows_by_path, slide, model.predict(patches, places))
    alone = model.predict(read_patches([lone, copy, namesake]))
    assert_rows_match(rows_by_path, [lone, copy, namesake], alone)
    out = tmp_path / "separate.csv"
    command(*slides[0], "--model", exported, "--no-spatial-context", "--out", out)
    rows = {Path(row["path"]): row for row in csv.DictReader(out.open(encoding="utf-8"))}
    assert_rows_match(rows, slides[0], model.predict(read_patches(slides[0])))


def assert_rows_match(rows: dict[Path, dict], paths: list[Path], expected: models.Predictions) -> None:
    known = expected.verdict < models.OUT_OF_DISTRIBUTION
    assert known.any()
    assert [rows[path]["verdict"] for path in paths] == [models.VERDICTS[verdict] for verdict in expected.verdict]
    probabilities = np.array([rows[path]["probability"] or np.nan for path in paths], float)
    np.testing.assert_allclose(probabilities[known], expected.probability[known], atol=5e-5)


def test_a_larger_image_of_a_slide_does_not_separate_its_patches(model, patches, tmp_path):
    paths = [tmp_path / f"slide_x{x}_y1.png" for x in (1, 51, 101, 301, 351)]
    for path, patch in zip(paths, patches, strict=False):
        write_png(path, np.tile(patch, (4, 4, 1)) if path is paths[2] else patch)
    small = [*paths[:2], *paths[3:]]
    rows = rows_of(model, paths, model.card.microns_per_pixel)
    places = np.array([[1, 1], [51, 1], [301, 1], [351, 1]])
    assert_rows_match(rows, small, model.predict(np.delete(patches[:5], 2, 0), places))


def copy_as_row(idc_folder, folder, step: int) -> list[Path]:
    """Copy four patches under names with x coordinates that are `step` pixels apart."""
    paths = [folder / f"slide_x{step * number}_y1.png" for number in range(4)]
    for source, target in zip(find_paths(idc_folder)[:4], paths, strict=True):
        shutil.copy(source, target)
    return paths


@pytest.mark.parametrize("step", [1, 12, 16 * 50 + 15])
def test_coordinates_that_cannot_be_pixels_are_not_used(model, idc_folder, tmp_path, caplog, step):
    """Row and column numbers, or distances that are neither patch pixels nor a multiple of the patch size."""
    paths = copy_as_row(idc_folder, tmp_path, step)
    with caplog.at_level("WARNING", logger="bcgan"):
        rows = rows_of(model, paths)
        for words in ("slide: its files are named like tiles (_x<x>_y<y>)", "50 pixels wide", "each file is predicted"):
            assert words in caplog.text
        rows_of(model, paths[:1], maps=tmp_path / "maps")
    assert "maps: no map was drawn: no image is larger than a patch" in caplog.text
    assert_rows_match(rows, paths, model.predict(read_patches(paths)))


def test_names_on_a_grid_of_whole_patches_count_full_resolution_pixels(model, idc_folder, tmp_path, caplog):
    """The scan has 16 pixels for each patch pixel; the outlines are in pixels of the scan."""
    paths = copy_as_row(idc_folder, tmp_path, 16 * 50)
    with caplog.at_level("INFO", logger="bcgan"):
        rows = rows_of(model, paths, maps=tmp_path / "maps")
    assert "(_x<x>_y<y>, which count 16 pixels for one of a tile's)" in caplog.text
    places = np.array([[50 * number, 0] for number in range(4)])
    assert_rows_match(rows, paths, model.predict(read_patches(paths), places))
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    corners = sorted(np.min(feature["geometry"]["coordinates"][0], 0).tolist() for feature in features)
    np.testing.assert_allclose(corners, [[800 * number, 0] for number in range(4)], atol=16)


def test_a_slide_of_patches_gets_a_map_at_the_coordinates_in_its_names(model, patches, tmp_path):
    """The patches and the outlines, which follow the names, have twice the model's scale."""
    places = [(101, 1), (101, 301), (501, 101)]
    for patch, (x, y) in zip(patches, places, strict=False):
        write_png(tmp_path / f"slide_x{x}_y{y}.png", patch.repeat(2, 0).repeat(2, 1))
    rows_of(model, find_paths(tmp_path), model.card.microns_per_pixel / 2, tmp_path / "maps")
    assert {path.name for path in (tmp_path / "maps").glob("[!.]*")} == {
        "slide.geojson",
        "slide.map.png",
        "slide.heat.png",
    }
    features = json.loads((tmp_path / "maps/slide.geojson").read_text())["features"]
    corners = [np.min(feature["geometry"]["coordinates"][0], 0) for feature in features]
    np.testing.assert_allclose(sorted(map(tuple, corners)), sorted(places), atol=1)


def test_a_slide_with_one_distant_patch_gets_a_map(model, patches, tmp_path):
    for x in (1, 51, 101, 151, 900_000_001):
        write_png(tmp_path / f"slide_x{x}_y1.png", patches[0])
    rows_of(model, find_paths(tmp_path), maps=tmp_path / "maps")
    assert (tmp_path / "maps/slide.map.png").exists()


def test_coordinates_must_match_the_patches_and_no_patch_gives_no_row(model, patches):
    with pytest.raises(ValueError, match=r"coords must be \(3, 2\)"):
        model.predict(patches[:3], np.zeros((2, 2)))
    assert [len(values) for values in model.predict(patches[:0])] == [0] * 6
    places = [[0, 0], [50, 0], [100, 0]]
    predictions, expected = model.predict(list(patches[:3]), places), model.predict(patches[:3], np.array(places))
    np.testing.assert_array_equal(predictions.probability, expected.probability)
