"""Figures show what was measured: their axes, legends and numbers against the run's tables."""

import base64
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bcgan.classes import CLASS_COLORS, CLASSES, FURTHER_CLASS_COLORS
from bcgan.classifiers import CLASSIFIERS
from bcgan.evaluate import derived
from bcgan.report import (
    classifier_figures,
    data_figures,
    explanation_figures,
    gan_effect_figures,
    gan_figures,
    page,
    slide_figures,
    style,
    synthesis_figures,
    tables,
)
from bcgan.report.style import CLASSIFIER_COLORS, CLASSIFIER_NAMES


def test_every_classifier_has_a_title_and_a_colour():
    """The report leaves out a classifier that has none."""
    names = {*CLASSIFIERS, derived.COLOR_TEXTURE, derived.ENSEMBLE, derived.CONTEXT}
    assert CLASSIFIER_NAMES.keys() == CLASSIFIER_COLORS.keys() == style.SHORT_NAMES.keys() == names


def test_where_tissue_may_not_be_shown_no_figure_holds_its_pixels(run):
    def marked(pixels: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array((0, 255, 0), pixels.dtype), pixels.shape).copy()

    real = {name: marked(pixels) for name, pixels in run.translated_patches.items() if name.startswith("real")}
    explained = run.explained_patches | {"real_images": marked(run.explained_patches["real_images"])}
    changed = run._replace(
        store=run.store._replace(images=marked(run.store.images)),
        translated_patches=run.translated_patches | real,
        explained_patches=explained,
    )

    def shows(draw, allowed: bool) -> bool:
        axes = draw(changed._replace(patient_images=allowed)).figure.axes
        pictures = [np.asarray(image.get_array()) for panel in axes for image in panel.images]
        return any(picture.ndim == 3 and (picture[..., :3] == (0, 255, 0)).all(-1).any() for picture in pictures)

    for draw in (
        data_figures.examples, data_figures.density, gan_figures.samples, gan_figures.nearest,
        synthesis_figures.translations, explanation_figures.explanations, explanation_figures.feature_maps,
    ):  # fmt: skip
        assert shows(draw, True), draw.__name__
        assert not shows(draw, False), draw.__name__


def test_every_figure_names_its_axes_its_sample_and_its_numbers(run):
    for figures in page._select_figures(run).values():
        for name, draw in figures.items():
            drawn = draw(run)
            assert len(drawn.numbers), name
            assert drawn.title and drawn.caption.endswith("."), name
            sample_size = re.search(r"[\d,]+ ([\w-]+ )*(patches|patients|steps)", drawn.caption)
            assert sample_size or name in page.FIGURES["networks"], name
            for axes in drawn.figure.axes:
                artists = [*axes.lines, *axes.patches, *axes.collections]
                if not (axes.get_visible() and axes.axison and artists and not axes.images):
                    continue
                for axis in "xy":
                    assert _is_named(axes, axis), (name, axes.get_title(loc="left"), f"{axis} axis without a name")
                legend = axes.get_legend()
                texts = [text.get_text() for text in legend.get_texts()] if legend else []
                assert len(texts) == len(set(texts)) and not any(text.startswith("_") for text in texts), name
            plt.close(drawn.figure)


def _is_named(axes, axis: str) -> bool:
    """Whether an axis has a label, or one in its column or row has, or has words as ticks; for y also a title."""
    span, position = {"x": "colspan", "y": "rowspan"}[axis], axes.get_subplotspec()
    places = [(panel, panel.get_subplotspec()) for panel in axes.figure.axes]
    shared = [
        axes,
        *(panel for panel, place in places if position and place and getattr(place, span) == getattr(position, span)),
    ]
    titled = any(axes.get_title(loc=place) for place in ("left", "center", "right"))
    return (
        any(getattr(panel, f"get_{axis}label")() or _in_words(panel, axis) for panel in shared)
        or (titled and axis == "y")
        or not len(getattr(axes, f"get_{axis}ticks")())
    )


def _in_words(axes, axis: str) -> bool:
    ticks = [text.get_text() for text in getattr(axes, f"get_{axis}ticklabels")()]
    return bool(ticks) and all(tick and not tick.lstrip("−-").replace(".", "").isdigit() for tick in ticks)


def test_a_colour_means_one_thing():
    """Figures take their colours from the palette, by name."""
    other_colours = (style.REAL, style.SYNTHETIC, *style.ROLE_COLORS.values(), *style.REPORT_COLORS)
    colours = [*CLASS_COLORS.values(), *FURTHER_CLASS_COLORS, *CLASSIFIER_COLORS.values(), *other_colours]
    assert len(set(colours)) == len(colours)
    for path in Path(style.__file__).parent.glob("*.py"):
        if path.name != "style.py":
            assert not set(re.findall(r"#[0-9A-Fa-f]{6}", path.read_text("utf-8"))) & set(colours), path.name


def test_a_picture_gets_a_palette_where_the_error_is_hardly_visible():
    rng = np.random.default_rng(0)
    tissue = np.linspace((255, 240, 250), (90, 40, 120), 250 * 250).reshape(250, 250, 3) + rng.normal(
        0, 4, (250, 250, 3)
    )
    noise = rng.integers(0, 256, (250, 250, 3))
    for picture, mode in ((tissue, "P"), (noise, "RGB")):
        assert style._reduce_colors(Image.fromarray(picture.clip(0, 255).astype(np.uint8))).mode == mode


def test_a_picture_in_an_svg_is_recompressed_where_the_error_is_hardly_visible():
    rng = np.random.default_rng(0)
    spots = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(spots.resize((64, 64), Image.Resampling.BICUBIC)).astype(float)
    textured = np.array([200, 140, 180]) + 30 * rng.normal(size=(64, 64, 1))
    clear = np.concatenate([textured, np.full((64, 64, 1), 100)], 2)
    flat = np.where(rng.random((64, 64, 1)) < 0.5, (0, 114, 178), (213, 94, 0))
    for picture, mode, kind in (
        (smooth, "RGB", "JPEG"), (textured, "P", "PNG"), (clear, "RGBA", "PNG"), (flat, "P", "PNG"),
    ):  # fmt: skip
        original, data = Image.fromarray(picture.clip(0, 255).astype(np.uint8)), io.BytesIO()
        original.save(data, format="PNG")
        embedded = f'"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"'
        recompressed = style.EMBEDDED_PNG.sub(style._recompress_picture, embedded)
        media_type, encoded = re.fullmatch(r'"data:image/(\w+);base64,(.*)"', recompressed).groups()
        decoded = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert (decoded.mode, decoded.format, media_type) == (mode, kind, kind.lower())
        assert (recompressed == embedded) == (mode == "RGBA")
        assert len(recompressed) <= len(embedded)
        assert style._pixel_errors(decoded, original.convert("RGB")).mean() <= style.MAX_MEAN_PIXEL_ERROR


def test_every_patient_has_a_bar_of_both_classes(run):
    drawn = data_figures.patient_balance(run)
    index = run.store.index
    assert (
        drawn.numbers.set_index("patient")["malignant"].to_dict() == index.groupby("patient")["label"].sum().to_dict()
    )
    panels = [axes for axes in drawn.figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["Training", "Validation", "Test"]
    assert f"{index['patient'].nunique()} patients" in drawn.caption
    for axes, role in zip(panels, ("train", "validation", "test"), strict=True):
        heights = sum(bar.get_height() for bars in axes.containers for bar in bars)
        assert heights == (index["role"] == role).sum()


def test_faults_are_named_by_the_first_files_that_have_them(run):
    faulty = pd.DataFrame(
        {"id": list("abcde"), "faults": ["blank", "blank near_duplicate", "blank", "blank", "blurred"]}
    )
    table = tables.audit(run._replace(faulty_files=faulty)).set_index("Fault")["For example"]
    assert (table["Blank"], table["Near duplicate"], table["Duplicate"]) == ("a, b, c", "b", "")
    assert set(tables.audit(run._replace(faulty_files=faulty.iloc[:0]))["For example"]) == {""}


def test_faults_are_shown_where_there_are_any_and_patient_images_are_allowed(run):
    """Kept patches come from the store, dropped ones from their files; the ids are those of the table."""
    ids, faults = run.store.index["id"], dict(run.audit["faults"])
    faulty = pd.DataFrame({
        "id": [*ids[:4], ids.iloc[7], "gone"],
        "faults": ["blank", "blank", "blank", "blank", "duplicate", "duplicate unreadable"],
    })  # fmt: skip
    faults |= {"blank": {"count": 4, "policy": "keep"}, "duplicate": {"count": 2, "policy": "drop"}}
    shorter = run.store._replace(images=run.store.images[:7], index=run.store.index.iloc[:7])
    faulted = run._replace(faulty_files=faulty, audit=run.audit | {"faults": faults}, store=shorter)
    drawn = data_figures.faults(faulted)
    pictures = {axes.get_xlabel(): axes.images[0].get_array() for axes in drawn.figure.axes if axes.images}
    assert list(pictures) == [*ids[:3], ids.iloc[7]] == drawn.numbers["id"].tolist()
    for number, picture in zip((0, 1, 2, 7), pictures.values(), strict=True):
        np.testing.assert_array_equal(picture, run.store.images[number])
    assert "faults" in page._select_figures(faulted)["data"]
    for without in (run, faulted._replace(patient_images=False)):
        assert "faults" not in page._select_figures(without)["data"]


def test_an_operating_points_confusion_holds_every_test_patch(run, test_rows):
    table = tables.operating_points(run)
    cells = table[["Malignant found", "missed", "Benign spared", "called malignant"]].astype(int)
    assert (cells.sum(axis=1) == len(test_rows)).all()
    (scores,) = run.probabilities_by_seed(run.classifier_names[0], test_rows).values()
    called = scores >= run.metrics[run.classifier_names[0]]["operating_points"]["sensitivity_95"]["threshold"]
    row = cells[table["Chosen for"] == tables.RULES["sensitivity_95"]].iloc[0]
    assert row["Malignant found"] == (called & (test_rows["label"] == 1)).sum()
    assert row["called malignant"] == (called & (test_rows["label"] == 0)).sum()


def test_the_bars_of_the_count_plot_are_the_stores_counts(run):
    axes = data_figures.count_plot(run).figure.axes[0]
    roles = [label.get_text().partition("\n")[0] for label in axes.get_yticklabels()]
    index = run.store.index
    for kind, bars in zip(CLASSES, axes.containers, strict=True):
        expected = index[index["label"] == CLASSES.index(kind)]["role"].map(data_figures.ROLE_NAMES).value_counts()
        assert [bar.get_width() for bar in bars] == [expected.get(role, 0) for role in roles]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(CLASSES)
    test = index[index["role"] == "test"]
    share = (test["label"] == 1).mean()
    assert f"{(test['label'] == 1).sum()} ({share:.0%})" in [text.get_text() for text in axes.texts]
    assert f"test\n{test['patient'].nunique()} patients" in [label.get_text() for label in axes.get_yticklabels()]


def test_every_role_has_its_own_scale(run):
    """If one role has many more patches, the bars of the others would be too short to read."""
    train_rows = run.store.index[run.store.index["role"] == "train"]
    index = pd.concat([run.store.index, *[train_rows] * 9], ignore_index=True)
    drawn = data_figures.patient_balance(run._replace(store=run.store._replace(index=index)))
    highest = {axes.get_title(loc="left"): axes.get_ylim()[1] for axes in drawn.figure.axes}
    assert highest["Training"] > 5 * highest["Test"]
    assert f"{run.store.index['patient'].nunique()} patients and {len(index)} patches" in drawn.caption


def test_the_proposed_classifier_is_shown_at_every_threshold(run, test_rows):
    drawn = classifier_figures.confusion(run)
    name = run.classifier_names[0]
    assert set(drawn.numbers["classifier"]) == {name}
    cells = drawn.numbers.set_index(["rule", "true", "called"]).sort_index()
    assert set(cells.index.unique("rule")) == set(tables.RULES)
    (scores,) = run.probabilities_by_seed(name, test_rows).values()
    for rule, point in run.metrics[name]["operating_points"].items():
        called = scores >= point["threshold"]
        assert cells.loc[(rule, "malignant", "malignant"), "patches"] == (called & (test_rows["label"] == 1)).sum()
        assert cells.loc[(rule, "benign", "malignant"), "patches"] == (called & (test_rows["label"] == 0)).sum()
        assert cells.xs(rule)["threshold"].to_numpy() == pytest.approx(point["threshold"])


def test_a_confusion_matrix_holds_every_test_patch_once(run, test_rows):
    drawn = classifier_figures.confusion(run)
    for name, cells in drawn.numbers.groupby(["classifier", "rule"]):
        assert cells["patches"].sum() == pytest.approx(len(test_rows)), name
        assert cells.groupby("true")["share"].sum().to_numpy() == pytest.approx(1)
    texts = [text.get_text() for axes in drawn.figure.axes for text in axes.texts]
    expected = [f"{row.share:.0%}\n{row.patches:,.0f}" for row in drawn.numbers.itertuples()]
    assert sorted(texts) == sorted(expected)


def test_a_mean_of_counts_is_not_rounded():
    """Two seeds may call 341 and 342 patches benign."""
    assert [classifier_figures.format_mean_count(count) for count in (341.5, 341.0, 1234.25)] == [
        "341.5", "341", "1,234.2"
    ]  # fmt: skip


def test_differences_hold_every_component_and_classifier(run):
    drawn = classifier_figures.comparisons(run)
    groups = drawn.numbers.groupby("group", sort=False)["row"].unique()
    assert len(groups.get(classifier_figures.COMPONENTS, [])) == len(tables.list_components(run))
    reference = run.comparisons[0]["reference"]
    compared = {CLASSIFIER_NAMES[name] for name in run.classifier_names if name != reference}
    assert set(groups[classifier_figures.CLASSIFIERS_COMPARED]) == compared
    differences = tables.differences_by_pair(run)
    for row in drawn.numbers[drawn.numbers["group"] == classifier_figures.CLASSIFIERS_COMPARED].itertuples():
        (name,) = (name for name, title in CLASSIFIER_NAMES.items() if title == row.row)
        assert row.value == differences[name, reference][row.metric]["value"]


def test_the_label_of_every_patch_of_a_sweep_is_its_measured_value(run):
    drawn = synthesis_figures.attribute_sweep(run)
    sweep = run.latent_walks["sweep"]
    for row in drawn.numbers.itertuples():
        label = run.class_names.index(row._1)
        measured = synthesis_figures.measure_density(run, sweep[label, row.row])[row.column]
        assert row.measured == pytest.approx(measured)
    texts = [axes.get_xlabel() for axes in drawn.figure.axes]
    assert [text.partition("\n")[0] for text in texts] == [f"{value:.2f}" for value in drawn.numbers["measured"]]


def test_a_synthetic_patch_is_not_called_wrong(run):
    """It has no true class, only the requested one."""
    for allowed in (True, False):
        drawn = explanation_figures.explanations(run._replace(patient_images=allowed))
        titles = " ".join(axes.get_title(loc="center") for axes in drawn.figure.axes)
        assert ("right" in titles or "wrong" in titles) == allowed
        assert ("asked" in titles and "called" in titles) != allowed


def test_a_map_without_a_difference_is_marked_as_flat(run):
    flat = {
        name: np.zeros_like(maps) if name.endswith("grad_cam") else maps for name, maps in run.explained_patches.items()
    }
    drawn = explanation_figures.explanations(run._replace(explained_patches=flat))
    marked = [text for axes in drawn.figure.axes for text in axes.texts if text.get_text() == "flat"]
    assert len(marked) == len(run.explained_patches["labels"])


def test_stains_of_another_color_are_implausible():
    hematoxylin, eosin = [0.65, 0.70, 0.29], [0.07, 0.99, 0.11]
    assert data_figures.is_plausible(np.array([hematoxylin, eosin]))
    assert not data_figures.is_plausible(np.array([[0.2, 0.3, 0.9], eosin]))  # yellow
    assert not data_figures.is_plausible(np.array([hematoxylin, [0.9, 0.3, 0.2]]))  # green


def test_epochs_are_drawn_as_they_were_logged(run):
    grid = classifier_figures.accuracy_loss(run).figure.axes
    for position, name in enumerate(run.trained_names):
        logged = run.training_logs[run.training_logs["classifier"] == name].groupby("epoch").mean(numeric_only=True)
        training, validation = grid[position].lines
        np.testing.assert_allclose(training.get_ydata(), logged["accuracy"])
        np.testing.assert_allclose(validation.get_ydata(), logged["validation_accuracy"])
        np.testing.assert_allclose(training.get_xdata(), logged.index + 1)


def test_scores_lie_between_their_floor_and_ceiling_as_measured(run):
    drawn = gan_figures.scores(run)
    for row in drawn.numbers.itertuples():
        measured = run.gan_scores[row.score]
        assert (row.value, row.floor, row.ceiling) == pytest.approx(
            tuple(np.nan if measured[key] is None else measured[key] for key in ("value", "floor", "ceiling")),
            nan_ok=True,
        )


def test_slide_maps_show_the_held_out_patches_of_one_slide_each(run):
    drawn = slide_figures.slide_maps(run)
    for (role, patient), rows in drawn.numbers.groupby(["role", "patient"]):
        held = run.probabilities[(run.probabilities["role"] == role) & (run.probabilities["patient"] == patient)]
        assert len(rows) == len(held)
        assert dict(zip(zip(rows["x"], rows["y"], strict=True), rows["label"], strict=True)) == dict(
            zip(zip(held["x"], held["y"], strict=True), held["label"], strict=True)
        )


def test_slides_of_test_patients_come_first_and_whole(run):
    """From whatever source their patches are. Where there are too few test patients, others follow."""
    test = sorted(set(run.probabilities.loc[run.probabilities["role"] == "test", "patient"]))
    other_patient = next(patient for patient in run.probabilities["patient"] if patient not in test)
    role = run.probabilities["role"].where(run.probabilities["patient"] != other_patient, "unlisted_other")
    first = run.probabilities["patient"] == test[0]
    role = role.mask(first & (run.probabilities["x"] > 200), "test_other")
    held = pd.concat([run.probabilities.assign(role=role)] * 2, ignore_index=True)  # more patches than any test slide
    held = held[(held["patient"] == other_patient) | ~held.duplicated()]
    changed = run._replace(probabilities=held)
    assert [patient for patient, _ in slide_figures.select_slides(changed)] == [*test, other_patient]
    drawn = slide_figures.slide_maps(changed)
    assert drawn.numbers.loc[drawn.numbers["patient"] == test[0], "role"].unique().tolist() == ["test", "test_other"]
    labels = [axes.get_ylabel() for axes in drawn.figure.axes if axes.get_ylabel().count("\n")]
    count, num_other_source = int(first.sum()), int(drawn.numbers["role"].str.endswith("_other").sum())
    assert f"{num_other_source} of the patches are of the other source" in drawn.caption
    assert labels[0] == f"Test\npatient {test[0]}\n{count} patches"
    assert labels[-1].startswith(f"Unlisted, other source\npatient {other_patient}")


def test_tissue_is_drawn_at_its_coordinates_and_only_where_patient_images_are_allowed(run):
    drawn = slide_figures.slide_maps(run)
    (axes,) = (axes for axes in drawn.figure.axes if axes.get_title(loc="left") == "Tissue")
    picture, side = np.asarray(axes.images[0].get_array()), slide_figures.THUMBNAIL_PATCH_PX
    rows = drawn.numbers[drawn.numbers["patient"] == drawn.numbers["patient"].iloc[0]]
    index = run.store.index[run.store.index["patient"] == rows["patient"].iloc[0]].set_index(["x", "y"])
    assert picture.shape == (side, side * len(rows), 3)  # the patches of a patient lie in one row
    for number, x in enumerate(sorted(rows["x"])):
        patch = run.store.images[run.store.index.index[run.store.index["id"] == index.loc[(x, 51), "id"]][0]]
        drawn_patch = picture[:, side * number : side * (number + 1)]
        np.testing.assert_allclose(drawn_patch.mean((0, 1)), patch.mean((0, 1)), atol=1)
    without = slide_figures.slide_maps(run._replace(patient_images=False))
    titles = {axes.get_title(loc="left") for axes in without.figure.axes}
    assert "Annotated" in titles and "Tissue" not in titles and "Tissue" not in without.caption


@pytest.mark.parametrize("draw", [classifier_figures.comparisons, gan_effect_figures.probes])
def test_every_dot_and_its_text_is_a_value_of_the_table(run, draw):
    drawn = draw(run)
    dots = [line.get_xdata()[0] for axes in drawn.figure.axes for line in axes.lines if line.get_marker() == "o"]
    assert sorted(dots) == pytest.approx(sorted(drawn.numbers["value"]))
    texts = [text.get_text() for axes in drawn.figure.axes for text in axes.texts]
    numbers = [float(text) for text in texts if re.fullmatch(r"[+-]?\d\.\d+", text)]
    assert sorted(numbers) == pytest.approx(sorted(drawn.numbers["value"]), abs=6e-4)


def test_patches_are_sorted_by_the_values_under_them(run):
    drawn = data_figures.density(run)
    values = [float(axes.get_xlabel()) for axes in drawn.figure.axes if axes.images]
    rows = np.reshape(values, (len(data_figures.ORDERS), -1))
    train = run.properties[run.properties["role"] == "train"]
    for name, row in zip(data_figures.ORDERS, rows, strict=True):
        assert (np.diff(row) >= 0).all()
        assert row[[0, -1]] == pytest.approx([train[name].min(), train[name].max()], abs=0.005)


def test_a_maps_colour_turns_at_the_threshold():
    places = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    colors = slide_figures._color_scale(0.2)
    picture = slide_figures._draw_values(places, np.array([0.0, 0.19, 0.21, np.nan]), colors).reshape(4, 4)
    benign, below, above, none = picture[:, :3]
    assert below[2] > below[0] and above[0] > above[2]  # blue, then orange
    np.testing.assert_allclose(benign, style.plt.matplotlib.colors.to_rgb(CLASS_COLORS["benign"]), atol=0.01)
    assert np.ptp(none) == 0
