"""Patches put back at their places in the slide: what was annotated, what is predicted, where they differ."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan import data
from bcgan.data.records import CLASSES, UNKNOWN
from bcgan.preprocess.images import at_size
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_NAMES, TOWARDS, Drawn
from bcgan.slides.coordinates import slide_names

SLIDES = 4
WIDTH = 2.5  # inches of a slide
LEAST = 0.1  # share of either class that makes a slide worth showing
TISSUE = 8  # pixels of a patch's side in the picture of the tissue: as many as a slide of 60 patches has on paper
TESTED = ("test", "test_other")
KINDS = ("tissue", "annotated", "probability", "probability in context", "wrong")


def wanted(run: Run) -> list[tuple[str, str]]:
    """(patient, slide) of the held-out slides to show, one a patient: test patients first, then the most densely
    covered; both classes on each. Where a slide's patches come from two sources, it is shown whole."""
    table = _held_out(run)
    untested = ~table["role"].isin(TESTED)
    groups = table.groupby([untested.rename("untested"), "patient", slide_names(table["id"])])["label"]
    groups = groups.agg(["size", "mean"]).reset_index(names=["untested", "patient", "slide"])
    groups = groups[groups["mean"].between(LEAST, 1 - LEAST)]
    groups = groups.sort_values(["untested", "size"], ascending=[True, False], kind="stable")
    slides = groups.drop_duplicates("patient")[["patient", "slide"]].head(SLIDES)
    return list(slides.itertuples(index=False, name=None))


def _held_out(run: Run) -> pd.DataFrame:
    """Scored patches whose place is known, of patients that neither trained nor chose anything."""
    table = run.probabilities[run.probabilities["role"].isin([*TESTED, "unlisted", "unlisted_other"])]
    return table[(table[["x", "y"]] != UNKNOWN).all(axis=1)]


def slide_maps(run: Run) -> Drawn:
    """A row a slide: tissue (where it may be shown), label, probability by the patch alone and with its neighbours, and
    errors."""
    side = data.side(run.experiment.data)
    alone = "ensemble" if "ensemble" in run.metrics else run.names[0]
    views = {"probability": alone, "probability in context": "ensemble_spatial_context"}
    views = {kind: name for kind, name in views.items() if name in run.metrics}
    last = list(views)[-1]
    tissue = ("tissue",) if run.patient_images else ()
    exact = run.experiment.data.name == "histology_phantom"
    kinds = [kind for kind in KINDS if kind in (*tissue, "annotated", "wrong", *views)]
    row_of = pd.Series(run.store.index.index, run.store.index["id"])
    chosen, scored = wanted(run), _held_out(run)
    slides = np.array(slide_names(scored["id"]))
    tables = [scored[(scored["patient"] == patient) & (slides == slide)] for patient, slide in chosen]
    places = [((table[["x", "y"]] - table[["x", "y"]].min()) / side).round().astype(int).to_numpy() for table in tables]
    heights = [WIDTH * np.clip((place.max(0)[1] + 1) / (place.max(0)[0] + 1), 0.3, 1.3) for place in places]
    figure, grid = plt.subplots(
        len(chosen), len(kinds), figsize=(WIDTH * len(kinds) + 0.6, sum(heights) + 0.1 * len(chosen) + 0.5),
        height_ratios=heights, squeeze=False,
    )  # fmt: skip
    rows = []
    for line, table, place, (patient, _) in zip(grid, tables, places, chosen, strict=True):
        probabilities = {kind: run.mean(name, table).to_numpy() for kind, name in views.items()}
        called = probabilities[last] >= run.threshold(views[last])
        truth = table["label"].to_numpy()
        colours = {
            "annotated": np.where(truth == 1, 1.0, 0.0),
            **probabilities,
            "wrong": np.where(called == truth, np.nan, truth.astype(float)),
        }
        for axes, kind in zip(line, kinds, strict=True):
            if kind == "tissue":
                picture = _mosaic(run.store.images[row_of[table["id"]]], place)
            else:
                picture = _squares(place, colours[kind], run.threshold(views.get(kind, views[last])))
            axes.imshow(picture, interpolation="none")
            axes.set(xticks=[], yticks=[])
            sns.despine(ax=axes, left=True, bottom=True)
        role = ROLE_NAMES[min(table["role"], key=len)].capitalize()  # not the other source's, where there are both
        text = f"{role}\npatient {patient}\n{len(table):,} patches"
        line[0].set_ylabel(text, fontsize=9, parse_math=False)
        rows.append(
            pd.DataFrame({
                "role": table["role"], "patient": patient, "x": table["x"], "y": table["y"], "label": truth,
                **probabilities, "called": called.astype(int),
            })
        )  # fmt: skip
    titles = {
        "tissue": "Tissue", "annotated": "Annotated", "probability": CLASSIFIER_NAMES[alone],
        "probability in context": "With neighbours",
        "wrong": "Wrong, with neighbours" if last == "probability in context" else "Wrong",
    }  # fmt: skip
    for axes, kind in zip(grid[0], kinds, strict=True):
        axes.set_title(titles[kind], fontsize=9.5)
    scale = _scale(run.threshold(views[last]))
    bar = figure.colorbar(scale, ax=grid.ravel().tolist(), shrink=0.5, aspect=30)
    bar.set_ticks([0, scale.norm.vcenter, 1], labels=["0", "threshold", "1"])
    bar.set_label("Probability of malignancy")
    total, patients = sum(map(len, tables)), len(tables)
    other_count = sum(int(table["role"].str.endswith("_other").sum()) for table in tables)
    thresholds = " and ".join(f"{run.threshold(name):.2f} ({CLASSIFIER_NAMES[name]})" for name in views.values())
    other_sources = (
        f" {other_count:,} of the patches are of the other source, which no result counts as test."
        if other_count
        else ""
    )
    caption = (
        f"Slides of {patients} held-out patients, {total:,} patches: of the test patients, then of unlisted ones, "
        f"the slides with the most patches, at least {LEAST:.0%} of them of either class. Each patch is a square of "
        f"{side} pixels at its place in the slide; white is what was not read.{other_sources} "
        f"{f'Tissue: the patches, reduced to {TISSUE} pixels a side. ' if tissue else ''}Annotated: {CLASSES[0]} blue, "
        f"{CLASSES[1]} orange. Probabilities turn from blue to orange at the validation thresholds, {thresholds}. "
        f"Wrong: what is called wrongly, in the colour of its annotation; what is called rightly is grey."
        + ("" if exact else " Annotations are regions drawn by hand: their edges are in every error.")
    )
    return Drawn(figure, pd.concat(rows), "Slide maps", caption)


def _scale(threshold: float):
    norm = plt.matplotlib.colors.TwoSlopeNorm(np.clip(threshold, 0.01, 0.99), 0, 1)
    return plt.cm.ScalarMappable(norm, TOWARDS)


def _squares(place: np.ndarray, values: np.ndarray, threshold: float) -> np.ndarray:
    """A pixel a patch in the colour of its value in [0, 1], grey where that is NaN; float, (height, width, 4)."""
    width, height = place.max(0) + 1
    picture = np.full((height, width, 4), (1.0, 1.0, 1.0, 1.0))
    picture[place[:, 1], place[:, 0]] = (0.86, 0.86, 0.86, 1.0)
    marked = np.isfinite(values)
    picture[place[marked, 1], place[marked, 0]] = _scale(threshold).to_rgba(values[marked])
    return picture


def _mosaic(patches: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the patches at their places, TISSUE pixels a side each, on white: uint8, (height, width, 3).

    Args:
        patches: uint8, (n, side, side, 3).
        place: integers, (n, 2). Column and row, in patches.
    """
    width, height = place.max(0) + 1
    picture = np.full((height, TISSUE, width, TISSUE, 3), 255, np.uint8)
    picture[place[:, 1], :, place[:, 0]] = at_size(patches, TISSUE)
    return picture.reshape(height * TISSUE, width * TISSUE, 3)
