"""x and y of a table are pixels of the image files, whatever side the patches are stored with."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bcgan import data
from bcgan.classify import context
from bcgan.data.slide_names import slide_names
from bcgan.evaluate import borders
from bcgan.evaluate.paired import Grid, _describe_places
from bcgan.experiment import Experiment
from bcgan.predict import export
from bcgan.preprocess import store
from bcgan.report import compare
from tests.conftest import write_png

COLUMNS, PATIENTS, STORED = 4, 4, 50


def build(folder: Path, side: int, narrow: bool = False) -> tuple[Experiment, pd.DataFrame]:
    """Write files of a checkerboard of classes, `side` pixels wide, with a table; return the experiment and its index.

    With `narrow`, the files of the last column are half as wide.
    """
    rng, rows = np.random.default_rng(0), []
    for patient in range(PATIENTS):
        for number in range(COLUMNS**2):
            row, column = divmod(number, COLUMNS)
            key = f"P{patient}/{number}.png"
            width = side // 2 if narrow and column == COLUMNS - 1 else side
            write_png(folder / "in" / key, rng.integers(100, 255, (side, width, 3), np.uint8))
            rows.append((key, (row + column) % 2, f"P{patient}", side * column, side * row))
    columns = ["image", "label", "patient", "x", "y"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)
    settings = {"name": "patient_folder", "dir": [folder / "in"], "labels": folder / "labels.csv", "size": STORED}
    experiment = Experiment(name="large", data=settings | {"mpp": 4 * STORED / side, "num_folds": 3})
    (folder / "run/preprocess").mkdir(parents=True)
    store.build(experiment, folder / "run/preprocess")
    return experiment, store.load(folder / "run/preprocess").index


@pytest.mark.parametrize("side", [STORED, 2 * STORED, 75, 40])
def test_neighbours_of_larger_images_are_those_of_the_patches_that_are_stored(tmp_path, side):
    """Borders in training, context as it is fitted, exported and predicted, and the places that compare matches."""
    experiment, index = build(tmp_path, side)
    patch_px = data.coordinate_patch_px(experiment.data, index)
    assert patch_px == side
    coords, slides = index[["x", "y"]].to_numpy(), slide_names(index, ())
    assert borders.find_border_patches(coords, index["label"].to_numpy(), slides, patch_px).all()  # a checkerboard
    logits = np.random.default_rng(1).uniform(0.1, 0.9, len(index))
    fitted = context.context_features(logits, coords, slides, patch_px)
    np.testing.assert_allclose(context.context_features(logits, *export._coordinates(index, experiment)), fitted)
    scale = export.model_scale(experiment, index, STORED)
    at_scale = np.rint(coords / scale.downsample).astype(int)  # as `bcgan predict` has them
    np.testing.assert_allclose(context.context_features(logits, at_scale, slides, STORED), fitted, atol=1e-9)
    grid = compare._read_grid(experiment.data, tmp_path / "run/evaluate")
    assert grid == Grid(pytest.approx(200 / side), side)
    row = index.index[index["id"] == "P1/1.png"][0]
    assert _describe_places(index, grid)[row] == "P1/P1 at 200, 0 microns"  # of any side, as a patch shows 200 microns


def test_the_side_is_that_of_most_images(tmp_path):
    experiment, index = build(tmp_path, 2 * STORED, narrow=True)
    assert data.coordinate_patch_px(experiment.data, index) == 2 * STORED


def test_a_run_without_sizes_or_scale_has_no_grid(tmp_path):
    experiment, _ = build(tmp_path, STORED)
    without_scale = experiment.data.replace(mpp=None)
    assert compare._read_grid(experiment.data, tmp_path / "gone/evaluate") is None
    assert compare._read_grid(without_scale, tmp_path / "run/evaluate") is None
    assert compare._read_grid(None, tmp_path / "run/evaluate") is None
