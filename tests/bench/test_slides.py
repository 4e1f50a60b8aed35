"""`make bench-slides`: its slides have the stated patches, and its figures are those of the commands."""

import json
import sys

import numpy as np
import pytest

from bcgan.bench import slides
from bcgan.slides.patches import cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import ModelScale


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (slides.NUM_TEXTURES, 5, 5, 3), dtype=np.uint8)
    coarse[..., 1] //= 2  # stained: green is the darkest
    return coarse.repeat(10, axis=1).repeat(10, axis=2)


def test_a_slide_has_the_patches_at_the_models_scale(patches, tmp_path):
    slides.write_slide(tmp_path / "slide.tif", (4000, 3200), patches)
    with open_image(tmp_path / "slide.tif") as image:
        assert image.sizes == [(4000 >> level, 3200 >> level) for level in range(slides.LEVELS)]
        assert image.mpp[:2] == (slides.MPP, slides.MPP)
        finest = image.read_region(0, 1600, 1200, 400, 400)
        grid = cut_patches(image, ModelScale(slides.PATCH_PX, slides.PATCH_MPP, None, 1.0))
    assert len(grid.patches) > 20 and (grid.coords % slides.PATCH_PX == 0).all()
    for patch in grid.patches:  # JPEG compression changes pixels
        assert np.abs(patches.astype(int) - patch).mean((1, 2, 3)).min() < 6
    means = finest.reshape(50, 8, 50, 8, 3).mean((1, 3))
    assert np.abs(patches - means).mean((1, 2, 3)).min() < 6


def test_a_command_is_measured_in_its_own_folder(tmp_path):
    def read(folder):
        return {(0, 0): float((folder / "out").read_text())}

    code = "import time; time.sleep(0.2); x = bytearray(80_000_000); open('out', 'w').write('7'); raise SystemExit(3)"
    measured = slides.measure([sys.executable, "-c", code], tmp_path / "run", read)
    assert measured.seconds > 0.2 and 76 < measured.peak_mebibytes < 200
    assert measured.probabilities == {(0, 0): 7.0}
    with pytest.raises(RuntimeError, match="no such thing"):
        slides.measure([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "failed", dict)


def test_probabilities_are_compared_where_both_engines_have_a_patch():
    reference, predicted = {(0, 0): 0.5, (8, 0): 0.25, (16, 0): 1.0}, {(0, 0): 0.5, (8, 0): 0.5, (24, 0): 0.1}
    assert slides.compare(reference, predicted) == {"shared": 2, "median": 0.125, "largest": 0.25}
    assert np.isnan(slides.compare(reference, {})["largest"])


def test_results_of_every_engine_are_read_by_corner(tmp_path):
    (tmp_path / "rows.csv").write_text("path,x,y,probability\ns.tif,400,0,0.25\ns.tif,800,0,\n")
    assert slides._read_rows(tmp_path) == {(400, 0): 0.25}
    table = tmp_path / "results/model-outputs-csv/s.csv"
    table.parent.mkdir(parents=True)
    table.write_text("minx,miny,width,height,prob_benign,prob_malignant\n400,0,400,400,0.75,0.25\n")
    assert slides._read_wsinfer(tmp_path) == {(400, 0): 0.25}
    np.savez(tmp_path / "results.npz", corners=np.array([[50, 0]]), probabilities=np.array([[0.75, 0.25]]))
    assert slides._read_tiatoolbox(tmp_path) == {(400, 0): 0.25}


def test_the_page_has_a_row_for_each_subject():
    row = {"patches": 1200, "seconds": [10.0, 12.0, 11.0], "rates": [120.0, 100.0, 110.0], "peak_mebibytes": 400}
    agreement = {"shared": 1100, "median": 0.001, "largest": 0.02}
    results = {"machine": {"name": "A", "cores": 2}, "slides": {
        "a": {"bcgan": row | {"agreement": None}, "WSInfer, equal": row | {"agreement": agreement}},
    }}  # fmt: skip
    page = slides.format_page(json.loads(json.dumps(results)))
    assert "| bcgan | 1,200 | 110.0 (100.0 to 120.0) | 11.0 | 400 |  |" in page
    assert "| WSInfer, equal | 1,200 | 110.0 (100.0 to 120.0) | 11.0 | 400 | 0.0200, 0.0010 (1100) |" in page
