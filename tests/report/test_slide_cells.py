"""Places of patches in the maps of slides: each patch that can be drawn has a cell of its own."""

import numpy as np
import pandas as pd
import pytest

from bcgan.report import overview_figures, page_data, slide_figures
from tests.report.multiclass import with_classes


def grid(columns, rows):
    return np.array([(x, y) for y in rows for x in columns])


@pytest.mark.parametrize(
    ("columns", "rows", "expected_columns", "cell_px"),
    [
        (range(0, 500, 50), (0, 50), range(10), 50),
        ((0, 50, 150, 400), (0, 50), (0, 1, 3, 8), 50),  # columns that were not read stay white
        ((0, 52, 99, 151), (0, 50), range(4), 50),  # nearly a grid
        ((*range(0, 500, 50), 470), (0, 50), range(11), 50),  # the last column ends at the slide's edge
        ((0, 50, 200, 400, 410), (0, 50), (0, 1, 4, 8, 9), 50),
        ((0, 20), (0, 50), (0, 1), 50),
        (range(0, 500, 25), range(0, 100, 25), range(20), 25),  # a stride of half the side
        ((*range(0, 100, 25), *range(300, 400, 25), 385), range(0, 100, 25), (*range(4), *range(12, 17)), 25),
    ],
)
@pytest.mark.parametrize("is_turned", [False, True])
def test_patches_that_overlap_have_a_cell_each(columns, rows, expected_columns, cell_px, is_turned):
    offsets = grid(columns, rows)
    cells, side = slide_figures._place(offsets[:, ::-1] if is_turned else offsets, 50)
    cells = cells[:, ::-1] if is_turned else cells
    assert side == cell_px
    assert cells[: len(columns), 0].tolist() == list(expected_columns)
    assert sorted(set(cells[:, 1])) == list(range(len(rows)))
    assert len(np.unique(cells, axis=0)) == len(cells)


def test_coordinates_without_a_grid_take_no_more_cells():
    offsets = np.random.default_rng(0).integers(0, 1000, (600, 2))
    offsets -= offsets.min(0)
    cells, side = slide_figures._place(offsets, 50)
    assert side == 50 and cells.max() <= 20
    slide = slide_figures.SlidePatches("7", pd.DataFrame(offsets, columns=["x", "y"]), cells, side)
    hidden = len(cells) - len(np.unique(cells, axis=0))
    assert hidden > 0
    assert slide_figures._overlap_text([slide], 50) == f" {hidden} patches lie where a later one is drawn."


def test_every_patch_of_a_slide_that_ends_at_its_edge_is_drawn(run):
    """Of the fixture's slides, rows of patches of 50 pixels, the last one moves to the slide's edge."""
    before = slide_figures.slide_maps(run)
    last = run.probabilities.groupby("patient")["x"].transform("max") == run.probabilities["x"]
    moved = run._replace(probabilities=run.probabilities.assign(x=run.probabilities["x"] - 30 * last))
    drawn, slides = slide_figures.slide_maps(moved), page_data._slides(moved)
    for slide in slides:
        cells = {tuple(cell) for cell in np.reshape(slide["cells"], (-1, 2))}
        assert len(cells) == len(slide["labels"])
    for one, other in zip(before.figure.axes, drawn.figure.axes, strict=True):
        assert [np.shape(image.get_array()) for image in one.images] == [
            np.shape(image.get_array()) for image in other.images
        ]
    text = "Patches that overlap lie side by side."
    assert text in drawn.caption and text not in before.caption
    assert text in slide_figures.overview(moved).caption and text not in slide_figures.overview(run).caption


def test_captions_name_what_is_drawn_and_selected(run):
    multiclass = with_classes(run)
    assert ": as annotated, and probabilities by " in slide_figures.overview(run).caption
    caption = slide_figures.overview(multiclass).caption
    assert ": as annotated, and as called by " in caption and "probabilities" not in caption
    assert "the epoch, the threshold and the calibration" in overview_figures.patient_flow(run).caption
    assert "threshold" not in overview_figures.patient_flow(multiclass).caption
