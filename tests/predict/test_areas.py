"""The area of tissue in a summary is that of the slide, in whatever tiles or images it is given."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bcgan
from bcgan.predict import batch, predict, slidewise, summary
from bcgan.predict.model import Thresholds
from bcgan.slides.files import find_images
from bcgan.slides.mpp_table import MppChoice
from tests.conftest import write_png

MPP = 2.0  # of the files; a patch of the included classifier has 50 pixels of 4 microns: 100 of these
WIDTH, HEIGHT = 300, 360
SLIDE_MM2 = WIDTH * HEIGHT * (MPP / 1000) ** 2


@pytest.fixture(scope="module")
def model():
    """The classifier that comes with bcgan, of one orientation, which here refuses no patch and gives each a label."""
    loaded = bcgan.load()
    thresholds = Thresholds(malignant=0.5, abstain_range=(0.5, 0.5))
    update = {
        "ood_threshold": np.inf, "thresholds": thresholds, "spatial_context_thresholds": thresholds, "tta_views": 1,
    }  # fmt: skip
    loaded.card = loaded.card.model_copy(update=update)
    return loaded


@pytest.fixture(scope="module")
def slide() -> np.ndarray:
    """Tissue without glass."""
    noise = np.random.default_rng(0).normal(0, 15, (HEIGHT, WIDTH, 3))
    return np.clip((170, 90, 160) + noise, 0, 255).astype(np.uint8)


def write_tiles(folder: Path, slide: np.ndarray, side: int, step: int | None = None) -> None:
    """Write tiles from the corners of a grid, those at its end smaller."""
    height, width = slide.shape[:2]
    for y in range(0, height, step or side):
        for x in range(0, width, step or side):
            write_png(folder / f"s [x={x},y={y},w={side},h={side}].png", slide[y : y + side, x : x + side])


def summarize(model, source: Path) -> dict:
    """Return the only row of the summary; the rows are written beside the source."""
    with (source.parent / "rows.csv").open("w") as out:
        counts = predict.predict(model, find_images([str(source)]), out, False, MppChoice(MPP))
    (row,) = summary.summarize(counts, model.card)
    return row


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("side", "step"),
    [(30, None), (50, None), (64, None), (100, None), (120, None), (150, None), (200, None),
     (60, 40), (100, 75), (120, 100), (200, 150)],
)  # fmt: skip
def test_the_same_tissue_has_the_same_area_in_every_tiling(model, slide, tmp_path, side, step):
    """Tiles smaller than a patch, up to 1.5 patches and larger; side by side and overlapping."""
    write_tiles(tmp_path / "in", slide, side, step)
    row = summarize(model, tmp_path / "in")
    assert row["slide"].endswith("in/s")
    assert row["tissue_mm2"] == pytest.approx(SLIDE_MM2, abs=1e-5)


@pytest.mark.parametrize(
    ("width", "height"),
    [(100, 100), (120, 104), (150, 150), (152, 100), (170, 230), (WIDTH, HEIGHT), (299, 351)],
)
def test_an_image_has_its_own_area(model, slide, tmp_path, width, height):
    """An image of up to 1.5 patches is one patch; the last patches of a larger one overlap those before them."""
    write_png(tmp_path / "in/a.png", slide[:height, :width])
    pixels = round(width / 2) * round(height / 2)  # at the model's scale
    assert summarize(model, tmp_path / "in")["tissue_mm2"] == pytest.approx(pixels * 16e-6, abs=1e-6)


def test_areas_of_classes_add_up_to_that_of_the_tissue(model, slide, tmp_path, monkeypatch):
    """Of tiles that are not all equally large."""
    write_tiles(tmp_path / "in", slide, 64)
    summarize(model, tmp_path / "in")
    median = np.median([float(row["probability"]) for row in read_rows(tmp_path)])
    thresholds = Thresholds(malignant=median, abstain_range=(median, median))
    monkeypatch.setattr(model, "card", model.card.model_copy(update={"spatial_context_thresholds": thresholds}))
    malignant = summarize(model, tmp_path / "in")["malignant_mm2"]
    names = [row["path"] for row in read_rows(tmp_path) if row["label"] == "malignant"]
    places = [[int(number) for number in re.findall("[xy]=([0-9]+)", name)] for name in names]
    pixels = sum(min(64, WIDTH - x) * min(64, HEIGHT - y) for x, y in places)
    assert 0.2 * SLIDE_MM2 < malignant < 0.8 * SLIDE_MM2
    assert malignant == pytest.approx(pixels * (MPP / 1000) ** 2, abs=1e-5)


def test_tiles_without_tissue_have_no_area_and_leave_theirs_to_others(model, slide, tmp_path):
    """Two tiles overlap by half; each of the others is glass."""
    slide = slide.copy()
    slide[:, 150:] = 246
    for x in (0, 50, 150, 200):
        write_png(tmp_path / f"in/s_x{x}_y0.png", slide[:100, x : x + 100])
    row = summarize(model, tmp_path / "in")
    assert (row["patches"], row["no_tissue"], row["tissue_mm2"]) == (2, 2, pytest.approx(150 * 100 * 4e-6))


def test_batch_sums_the_areas_that_predict_sums(model, slide, tmp_path, monkeypatch):
    write_tiles(tmp_path / "in/p1_a", slide[:200], 64)
    write_png(tmp_path / "in/p1_b.png", slide[:140, :120])
    write_tiles(tmp_path / "in/p2_a", slide[:150], 50)
    monkeypatch.setattr(batch, "_load_model", lambda *_: model)
    slides, job = slidewise.find_slides([str(tmp_path / "in")]), batch.PredictJob(tmp_path / "out", mpp=MPP)
    slidewise.run_job(slides, job, "serial", 1)
    patients = job.summarize_patients(slidewise.read_counts(slides, job), "^p[0-9]")
    expected = [summarize(model, slide.path) for slide in slides]
    by_slide = pd.read_csv(tmp_path / "out/summary.csv")
    for column in ("tissue_mm2", "malignant_mm2"):
        values = [row[column] for row in expected]
        assert by_slide[column].to_numpy() == pytest.approx(values, abs=2e-6)
        assert [row[column] for row in patients] == pytest.approx([values[0] + values[1], values[2]], abs=2e-6)
    assert by_slide["tissue_mm2"].to_numpy() == pytest.approx([0.24, 0.0672, 0.18], abs=1e-5)
