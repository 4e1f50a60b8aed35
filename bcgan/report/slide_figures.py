"""Maps of held-out slides: the patches at their coordinates, with annotation, predictions and errors."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from bcgan import data
from bcgan.classes import CLASS_COLORS, class_noun
from bcgan.data.records import UNKNOWN
from bcgan.data.slide_names import slide_names
from bcgan.preprocess.images import resize_patches
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_NAMES, SHORT_NAMES, ReportFigure, class_colormap, show_patch

MAX_SLIDES = 4
SLIDE_WIDTH_IN = 2.5
MAX_ENLARGEMENT = 16  # by how much more cells patches that overlap may take
MIN_CLASS_SHARE = 0.1  # of all classes but the most frequent one, in a slide that is shown
THUMBNAIL_PATCH_PX = 8  # side of a patch in the picture of the tissue; enough for the printed size of a slide
TEST_ROLES = ("test", "test_other")
KINDS = ("tissue", "annotated", "probability", "probability in context", "wrong")
BACKGROUND, UNMARKED = (1.0, 1.0, 1.0, 1.0), (0.86, 0.86, 0.86, 1.0)  # RGBA: no patch, a patch without a value


class SlidePatches(NamedTuple):
    """The patches of one slide."""

    patient: str
    table: pd.DataFrame  # rows of the run's `probabilities`
    cells: np.ndarray  # integers, (n, 2): column and row of each patch, from the top left one
    cell_px: int  # side of a cell: that of a patch, or less if patches overlap


def select_slides(run: Run) -> list[tuple[str, str]]:
    """Return the (patient, slide) pairs to show, at most one a patient, MAX_SLIDES in all.

    At least MIN_CLASS_SHARE of a slide's patches are not of its most frequent class. Test patients come first, then
    slides with more patches. Patches of a slide from two sources are shown together.
    """
    table = _held_out_patches(run)
    is_untested = ~table["role"].isin(TEST_ROLES)
    names = slide_names(table, run.experiment.data.classes)
    groups = table.groupby([is_untested.rename("untested"), "patient", names])["label"]
    # Of each slide: its patches, and those of its most frequent class.
    groups = groups.agg(size="size", largest=lambda labels: np.bincount(labels).max())
    groups = groups.reset_index(names=["untested", "patient", "slide"])
    groups = groups[groups["largest"] / groups["size"] <= 1 - MIN_CLASS_SHARE]
    groups = groups.sort_values(["untested", "size"], ascending=[True, False], kind="stable")
    slides = groups.drop_duplicates("patient")[["patient", "slide"]].head(MAX_SLIDES)
    return list(slides.itertuples(index=False, name=None))


def _held_out_patches(run: Run) -> pd.DataFrame:
    """Return predictions of patches with known coordinates, of patients neither for training nor for validation."""
    table = run.probabilities[run.probabilities["role"].isin([*TEST_ROLES, "unlisted", "unlisted_other"])]
    return table[(table[["x", "y"]] != UNKNOWN).all(axis=1)]


def slide_maps(run: Run) -> ReportFigure:
    """Draw a row for each slide: tissue (if it may be shown), label, predictions without and with context, errors.

    Predictions are probabilities of the second of two classes, or which of more classes a patch is called.
    """
    patch_px = data.coordinate_patch_px(run.experiment.data, run.store.index)
    alone = "ensemble" if "ensemble" in run.metrics else run.classifier_names[0]
    classifiers = {"probability": alone, "probability in context": "ensemble_spatial_context"}
    classifiers = {kind: name for kind, name in classifiers.items() if name in run.metrics}
    last = list(classifiers)[-1]
    tissue = ("tissue",) if run.patient_images else ()
    kinds = [kind for kind in KINDS if kind in (*tissue, "annotated", "wrong", *classifiers)]
    slides = load_slides(run, patch_px)
    sizes = [slide.cells.max(0) + 1 for slide in slides]
    heights = [SLIDE_WIDTH_IN * np.clip(height / width, 0.3, 1.3) for width, height in sizes]
    figure, grid = plt.subplots(
        len(slides), len(kinds), height_ratios=heights, squeeze=False,
        figsize=(SLIDE_WIDTH_IN * len(kinds) + 0.6, sum(heights) + 0.1 * len(slides) + 0.5),
    )  # fmt: skip
    tables = [
        _draw_slide(run, slide, dict(zip(kinds, axes_row, strict=True)), classifiers)
        for axes_row, slide in zip(grid, slides, strict=True)
    ]
    titles = {
        "tissue": "Tissue", "annotated": "Annotated", "probability": CLASSIFIER_NAMES[alone],
        "probability in context": "With neighbours",
        "wrong": "Wrong, with neighbours" if last == "probability in context" else "Wrong",
    }  # fmt: skip
    for axes, kind in zip(grid[0], kinds, strict=True):
        axes.set_title(titles[kind], fontsize=9.5)
    if run.is_multiclass:
        handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in run.class_colors.values()]
        figure.legend(handles, run.class_texts, loc="outside lower center", ncol=min(len(handles), 4))
    else:
        color_scale = _color_scale(run.mean_threshold(classifiers[last]))
        bar = figure.colorbar(color_scale, ax=grid.ravel().tolist(), shrink=0.5, aspect=30)
        bar.set_ticks([0, color_scale.norm.vcenter, 1], labels=["0", "threshold", "1"])
        bar.set_label(f"Probability of {class_noun(run.class_names[1])}")
    return ReportFigure(figure, pd.concat(tables), "Slide maps", _maps_caption(run, slides, patch_px, classifiers))


def overview(run: Run) -> ReportFigure:
    """Draw the annotation and the last prediction of the first slide, for the first screen."""
    patch_px = data.coordinate_patch_px(run.experiment.data, run.store.index)
    slide = load_slides(run, patch_px)[0]
    name = next(
        (name for name in ("ensemble_spatial_context", "ensemble") if name in run.metrics), run.classifier_names[0]
    )
    predicted = run.mean_calls(name, slide.table) if run.is_multiclass else run.mean_probabilities(name, slide.table)
    width, height = slide.cells.max(0) + 1
    figure, grid = plt.subplots(1, 2, figsize=(4.5, np.clip(2.2 * height / width, 0.8, 2.6) + 0.4))
    panels = {"Annotated": slide.table["label"].to_numpy(float), SHORT_NAMES[name]: predicted}
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        show_patch(axes, _draw_values(slide.cells, values, _value_colors(run, name)))
        axes.set_title(title, fontsize=9, fontweight="normal")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in run.class_colors.values()]
    figure.legend(handles, run.class_texts, loc="outside lower center", ncol=min(len(handles), 4), fontsize=8.5)
    role = ROLE_NAMES[min(slide.table["role"], key=len)]
    first, *_, last = run.class_texts
    colors = (
        "In the colours of the classes"
        if run.is_multiclass
        else f"Blue: {first}; orange: {last}; grey: at the threshold"
    )
    quantity = "as called" if run.is_multiclass else "probabilities"
    caption = (
        f"Slide of {role} patient {slide.patient}, {len(slide.table):,} patches: as annotated, and "
        f"{quantity} by {CLASSIFIER_NAMES[name]}. {colors}; white was not read.{_overlap_text([slide], patch_px)}"
    )
    numbers = pd.DataFrame({
        "x": slide.table["x"], "y": slide.table["y"], "label": slide.table["label"], "predicted": predicted,
    })  # fmt: skip
    return ReportFigure(figure, numbers, "One slide", caption)


def load_slides(run: Run, patch_px: int) -> list[SlidePatches]:
    """Return the patches of the slides that are shown; `patch_px` is a patch's side in the pixels of coordinates."""
    held_out = _held_out_patches(run)
    names = slide_names(held_out, run.experiment.data.classes)
    slides = []
    for patient, name in select_slides(run):
        table = held_out[(held_out["patient"] == patient) & (names == name)]
        offsets = (table[["x", "y"]] - table[["x", "y"]].min()).to_numpy()
        slides.append(SlidePatches(patient, table, *_place(offsets, patch_px)))
    return slides


def _place(offsets: np.ndarray, patch_px: int) -> tuple[np.ndarray, int]:
    """Return a column and row for each patch, (n, 2), and the side of a cell, pixels.

    Patches overlap if the last column and row end at the slide's edge, or if they were cut with a stride below their
    side. They lie side by side then, in cells of the stride. Coordinates without a grid, which would take more than
    MAX_ENLARGEMENT times as many cells, are rounded to patches: some of them share a cell.

    Args:
        offsets: integers, (n, 2). Coordinates from the top left patch, pixels.
        patch_px: Side of a patch.
    """
    rounded = np.round(offsets / patch_px).astype(int)
    if len(np.unique(rounded, axis=0)) == len(np.unique(offsets, axis=0)):
        return rounded, patch_px
    values_by_axis = [np.unique(offsets[:, axis]) for axis in (0, 1)]
    steps, counts = np.unique(np.concatenate([np.diff(values) for values in values_by_axis]), return_counts=True)
    stride = min(patch_px, int(steps[counts == counts.max()][-1]))
    cells = np.stack([
        # Of each column, at its place but at least one after the column before.
        (np.maximum.accumulate(np.round(values / stride) - np.arange(len(values))) + np.arange(len(values)))[
            np.searchsorted(values, offsets[:, axis])
        ] for axis, values in enumerate(values_by_axis)
    ], axis=1).astype(int)  # fmt: skip
    if np.prod(cells.max(0) + 1) > MAX_ENLARGEMENT * np.prod(rounded.max(0) + 1):
        return rounded, patch_px
    return cells, stride


def _overlap_text(slides: list[SlidePatches], patch_px: int) -> str:
    """Return for captions how patches that overlap are drawn; empty if there are none."""
    num_hidden = sum(len(slide.cells) - len(np.unique(slide.cells, axis=0)) for slide in slides)
    if num_hidden:
        return f" {num_hidden:,} patches lie where a later one is drawn."
    places = [(slide.table[["x", "y"]] - slide.table[["x", "y"]].min()) / patch_px for slide in slides]
    is_moved = any((place.round() != slide.cells).any(axis=None) for place, slide in zip(places, slides, strict=True))
    return " Patches that overlap lie side by side." * is_moved


def _draw_slide(
    run: Run, slide: SlidePatches, axes_by_kind: dict[str, plt.Axes], classifiers: dict[str, str]
) -> pd.DataFrame:
    """Draw the maps of one slide.

    Args:
        axes_by_kind: Axes by kind of map, one of KINDS.
        classifiers: {kind of map that shows predictions: classifier}. Errors are those of the last one.

    Returns:
        A row for each patch: role, patient, x, y, label, the predictions of each classifier, and called, the label that
        the last one predicts.
    """
    table, last = slide.table, list(classifiers)[-1]
    truth, called = table["label"].to_numpy(), run.mean_calls(classifiers[last], table)
    predictions = {
        kind: run.mean_calls(name, table) if run.is_multiclass else run.mean_probabilities(name, table)
        for kind, name in classifiers.items()
    }
    values = {"annotated": truth.astype(float), **predictions, "wrong": np.where(called == truth, np.nan, truth)}
    for kind, axes in axes_by_kind.items():
        if kind == "tissue":
            store_rows = pd.Series(run.store.index.index, run.store.index["id"])[table["id"]]
            picture = _draw_thumbnails(run.store.images[store_rows], slide.cells)
        else:
            picture = _draw_values(
                slide.cells, values[kind], _value_colors(run, classifiers.get(kind, classifiers[last]))
            )
        show_patch(axes, picture)
    role = ROLE_NAMES[min(table["role"], key=len)].capitalize()  # the shortest: `test` rather than `test_other`
    text = f"{role}\npatient {slide.patient}\n{len(table):,} patches"
    next(iter(axes_by_kind.values())).set_ylabel(text, fontsize=9, parse_math=False)
    if run.is_multiclass:
        predictions = {"probability_of_label": run.true_probabilities(classifiers[last], table)}
    return pd.DataFrame({
        "role": table["role"], "patient": slide.patient, "x": table["x"], "y": table["y"], "label": truth,
        **predictions, "called": called.astype(int),
    })  # fmt: skip


def _maps_caption(run: Run, slides: list[SlidePatches], patch_px: int, classifiers: dict[str, str]) -> str:
    """Return the caption of the slide maps."""
    num_patches = sum(len(slide.table) for slide in slides)
    num_other = sum(int(slide.table["role"].str.endswith("_other").sum()) for slide in slides)
    other_source = (
        f" {num_other:,} of the patches are of the other source, which no result counts as test." if num_other else ""
    )
    if run.is_multiclass:
        colors = "Annotated, and what is called: in the colour of the class."
    else:
        thresholds = " and ".join(
            f"{run.mean_threshold(name):.2f} ({CLASSIFIER_NAMES[name]})" for name in classifiers.values()
        )
        first, second = run.class_texts
        colors = (
            f"Annotated: {first} blue, {second} orange. Probabilities turn from blue to orange at the validation "
            f"thresholds, {thresholds}."
        )
    shares = "outside their most frequent class" if run.is_multiclass else "of either class"
    tissue = f"Tissue: the patches, reduced to {THUMBNAIL_PATCH_PX} pixels a side. " if run.patient_images else ""
    caption = (
        f"Slides of {len(slides)} held-out patients, {num_patches:,} patches: of test patients first, and of each "
        f"group the slides with the most patches, at least {MIN_CLASS_SHARE:.0%} of them {shares}. Each patch "
        f"is a square of {patch_px} pixels at its place in the slide; white is what was not "
        f"read.{_overlap_text(slides, patch_px)}{other_source} "
        f"{tissue}{colors} Wrong: what is called wrongly, in the colour of its annotation; what is "
        "called rightly is grey."
    )
    if run.is_phantom:
        return caption
    borders = run.metrics[list(classifiers.values())[-1]].get("borders")
    at_border = ""
    if borders and borders["errors"]:
        at_border = (
            f" Of all test patches that are called wrongly, {borders['border_errors'] / borders['errors']:.0%} touch a "
            "patch with another label."
        )
    return f"{caption} Annotations are regions drawn by hand, whose edges are uncertain.{at_border}"


def _value_colors(run: Run, name: str) -> plt.cm.ScalarMappable:
    """Return a map from values to colors: of a classifier's probabilities or, of more than two classes, of labels."""
    if not run.is_multiclass:
        return _color_scale(run.mean_threshold(name))
    colors = list(run.class_colors.values())
    norm = plt.matplotlib.colors.BoundaryNorm(np.arange(len(colors) + 1) - 0.5, len(colors))
    return plt.cm.ScalarMappable(norm, plt.matplotlib.colors.ListedColormap(colors))


def _color_scale(threshold: float) -> plt.cm.ScalarMappable:
    """Return the color scale of probabilities, which turns from the first class to the second at the threshold."""
    norm = plt.matplotlib.colors.TwoSlopeNorm(np.clip(threshold, 0.01, 0.99), 0, 1)
    return plt.cm.ScalarMappable(norm, class_colormap(*CLASS_COLORS.values()))


def _draw_values(cells: np.ndarray, values: np.ndarray, colors: plt.cm.ScalarMappable) -> np.ndarray:
    """Return a picture of one pixel a patch, in the color of its value; gray if it is NaN.

    Args:
        cells: integers, (n, 2). Column and row of each patch.
        values: float, (n,).

    Returns:
        RGBA floats, (height, width, 4).
    """
    width, height = cells.max(0) + 1
    picture = np.full((height, width, 4), BACKGROUND)
    picture[cells[:, 1], cells[:, 0]] = UNMARKED
    has_value = np.isfinite(values)
    picture[cells[has_value, 1], cells[has_value, 0]] = colors.to_rgba(values[has_value])
    return picture


def _draw_thumbnails(patches: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the patches in their cells, THUMBNAIL_PATCH_PX a side each, on white: uint8, (height, width, 3).

    Args:
        patches: uint8, (n, side, side, 3).
        cells: integers, (n, 2). Column and row.
    """
    width, height = cells.max(0) + 1
    # Rows and columns of cells have axes of their own, so that one assignment places all patches.
    picture = np.full((height, THUMBNAIL_PATCH_PX, width, THUMBNAIL_PATCH_PX, 3), 255, np.uint8)
    picture[cells[:, 1], :, cells[:, 0]] = resize_patches(patches, THUMBNAIL_PATCH_PX)
    return picture.reshape(height * THUMBNAIL_PATCH_PX, width * THUMBNAIL_PATCH_PX, 3)
