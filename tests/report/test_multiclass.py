"""Reports on more than two classes: figures, tables and texts against the run's numbers."""

import copy
import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from bcgan import classes
from bcgan.evaluate import derived, metrics
from bcgan.evaluate.intervals import format_estimate
from bcgan.report import (
    alerts,
    cards,
    class_curves,
    classifier_figures,
    compare,
    data_figures,
    embedding_figure,
    explanation_figures,
    gan_figures,
    gan_tables,
    page,
    patient_figures,
    slide_figures,
    style,
    synthesis_figures,
    tables,
    wording,
)
from bcgan.report.results import collect_results
from bcgan.report.run import Run
from tests.report.multiclass import CLASS_NAMES, measure, with_classes


@pytest.fixture(scope="module")
def run(tiny_run) -> Run:
    return with_classes(tiny_run)


def test_every_class_has_a_colour_of_its_own():
    """Benign and malignant keep theirs; two classes of other names have them too."""
    blue, vermilion = classes.CLASS_COLORS.values()
    assert list(classes.class_colors(("normal", "tumor")).values()) == [blue, vermilion]
    colors = classes.class_colors(("normal", "benign", "in_situ", "invasive"))
    assert (colors["benign"], colors["invasive"]) == (blue, vermilion)
    assert classes.class_colors(CLASS_NAMES)["malignant"] == vermilion
    for count in (3, 8, 12):
        names = tuple(f"class{number}" for number in range(count))
        colors = classes.class_colors(names)
        assert tuple(colors) == names
        assert len(set(colors.values())) == count


def test_text_is_dark_enough_to_be_read():
    for color in classes.CLASS_COLORS.values():
        assert style.text_color(color) == color
    for color in classes.FURTHER_CLASS_COLORS:
        rgb = np.array(style.matplotlib.colors.to_rgb(style.text_color(color)))
        assert style._contrast_with_white(rgb) >= style.MIN_TEXT_CONTRAST - 0.05


def test_texts_name_the_classes(run, tiny_run):
    assert wording.join_words(["a", "b", "c"], "or") == "a, b or c"
    assert wording.join_words(["a"]) == "a"
    assert classes.capitalize("ductal, DCIS") == "Ductal, DCIS"
    counts = run.split["counts"]["test"]["by_class"]
    assert run.role_summary("test").endswith(
        f"patches, {counts['benign']} benign, {counts['in_situ']} in situ, {counts['malignant']} malignant"
    )
    assert with_classes(tiny_run, tuple("abcde")).role_summary("test").endswith("patches, 5 classes")
    assert wording.metric_names(classes.CLASSES) == style.METRIC_NAMES


def test_the_class_of_the_largest_probability_is_called(run, test_rows):
    name = run.classifier_names[0]
    (scores,) = run.probabilities_by_seed(name, test_rows).values()
    np.testing.assert_array_equal(run.called_by_seed(name, test_rows)[0], scores.argmax(1))
    np.testing.assert_allclose(
        run.true_probabilities(name, test_rows), scores[np.arange(len(scores)), test_rows["label"]]
    )
    right = run.correct_fraction(name, test_rows)
    np.testing.assert_array_equal(right, scores.argmax(1) == test_rows["label"])


def test_a_confusion_matrix_has_every_class(run, test_rows):
    drawn = classifier_figures.confusion(run)
    for name in run.classifier_names:
        (scores,) = run.probabilities_by_seed(name, test_rows).values()
        cells = drawn.numbers[drawn.numbers["classifier"] == name]["patches"].to_numpy().reshape(3, 3)
        np.testing.assert_array_equal(cells, confusion_matrix(test_rows["label"], scores.argmax(1)))
    assert len(drawn.numbers) == 9 * len(run.classifier_names)
    assert "threshold" not in drawn.caption


@pytest.mark.parametrize("draw", [class_curves.roc, class_curves.precision_recall])
def test_a_curve_a_class_and_the_mean_area_of_every_classifier(run, test_rows, draw):
    drawn = draw(run)
    metric = "roc_auc" if draw is class_curves.roc else "pr_auc"
    name, axes = run.classifier_names[0], drawn.figure.axes[0]
    legend_texts = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    by_class = run.metrics[name]["by_class"]["test"]
    assert legend_texts == [
        f"{text}: {format_estimate(by_class[class_name][metric])}"
        for class_name, text in zip(CLASS_NAMES, run.class_texts, strict=True)
    ]
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [line.get_color() for line in lines] == list(run.class_colors.values())
    means = drawn.numbers[drawn.numbers["class"] == "mean"].set_index("classifier")["value"]
    assert means.to_dict() == pytest.approx(
        {classifier: run.metrics[classifier]["sets"]["test"][metric]["value"] for classifier in run.classifier_names}
    )
    if metric == "roc_auc":
        (scores,) = run.probabilities_by_seed(name, test_rows).values()
        for label, line in enumerate(lines):
            area = np.trapezoid(line.get_ydata(), line.get_xdata())
            assert area == pytest.approx(roc_auc_score(test_rows["label"] == label, scores[:, label]), abs=0.02)


def test_reliability_bins_of_a_class_hold_every_patch(run, test_rows):
    drawn = class_curves.reliability(run)
    for label, name in enumerate(CLASS_NAMES):
        points = drawn.numbers[(drawn.numbers["probabilities"] == "As it is") & (drawn.numbers["class"] == name)]
        observed = np.average(points["observed"], weights=points["patches"])
        assert points["patches"].sum() == len(test_rows)
        assert observed == pytest.approx((test_rows["label"] == label).mean())


def test_the_error_that_reliability_states_is_that_of_the_drawn_points(run, test_rows):
    """Five trainings: the points are those of all of them, not of their mean, which is another classifier."""
    name, rng = run.classifier_names[0], np.random.default_rng(0)
    table, measured = run.probabilities.copy(), copy.deepcopy(run.metrics)
    for seed in range(5):
        scores = rng.dirichlet([0.4] * 3, len(table)) + 0.3 * np.eye(3)[table["label"]]
        derived.set_probabilities(table, name, seed, scores / scores.sum(1, keepdims=True), run.class_names)
        measured[name]["calibration"][str(seed)] = {"temperature": [1.0] * 3, "shift": [0.0] * 3}
    drawn = class_curves.reliability(run._replace(probabilities=table, metrics=measured)).numbers
    test = table[table["role"] == "test"]
    for label, class_name in enumerate(CLASS_NAMES):
        points = drawn[(drawn["probabilities"] == "As it is") & (drawn["class"] == class_name)]
        pooled = np.concatenate([derived.get_probabilities(test, name, seed)[:, label] for seed in range(5)])
        is_class = np.tile(test["label"] == label, 5)
        expected = metrics.compute_metrics(is_class.astype(int), pooled, 0.5, np.ones((1, len(pooled))))["ece"][0]
        error = np.average((points["observed"] - points["predicted"]).abs(), weights=points["patches"])
        assert error == pytest.approx(expected) and points["patches"].sum() == pytest.approx(len(test))


def test_figures_and_tables_that_need_two_classes_are_left_out(run, tiny_run):
    figures = {name for drawn in page._select_figures(run).values() for name in drawn}
    assert {name for drawn in page._select_figures(tiny_run).values() for name in drawn} - figures == {"decision_curve"}
    summary_tables, _ = page._make_tables(run)
    assert {"per_class", "per_class_others"} <= summary_tables.keys()
    assert not {"operating_points", "slides"} & summary_tables.keys()
    assert "operating_points" in page._make_tables(tiny_run)[0]


def test_the_table_of_classes_has_the_metrics_of_each(run):
    name = run.classifier_names[0]
    table = tables.per_class(run, [name]).set_index("Class")
    assert table.index.tolist() == ["benign", "in situ", "malignant"]
    assert table["Patches"].tolist() == list(run.class_counts("test"))
    for class_name, text in zip(CLASS_NAMES, run.class_texts, strict=True):
        measured = run.metrics[name]["by_class"]["test"][class_name]
        for metric, title in (("roc_auc", "ROC AUC"), ("sensitivity", "Sensitivity"), ("specificity", "Specificity")):
            assert table.at[text, title] == format_estimate(measured[metric])
    assert tables.counts(run).columns.tolist() == ["Role", "Patients", "Patches", "Benign", "In situ", "Malignant"]


def test_a_panel_a_class_has_every_patients_share(run, test_rows):
    drawn = patient_figures.patient_shares(run)
    for label, name in enumerate(CLASS_NAMES):
        annotated = drawn.numbers[drawn.numbers["class"] == name].set_index("patient")["annotated"]
        expected = (test_rows["label"] == label).groupby(test_rows["patient"]).mean()
        assert annotated.to_dict() == pytest.approx(expected.to_dict())
    estimated = drawn.numbers.groupby("patient")["estimated"].sum()
    assert estimated.to_numpy() == pytest.approx(1)
    titles = [axes.get_title(loc="left") for axes in drawn.figure.axes]
    assert titles == ["Benign", "In situ", "Malignant"]


def test_counts_and_shares_are_of_every_class(run):
    index = run.store.index
    axes = data_figures.count_plot(run).figure.axes[0]
    roles = [label.get_text().partition("\n")[0] for label in axes.get_yticklabels()]
    for label, bars in enumerate(axes.containers):
        expected = index[index["label"] == label]["role"].map(style.ROLE_NAMES).value_counts()
        assert [bar.get_width() for bar in bars] == [expected.get(role, 0) for role in roles]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == run.class_texts
    balance = data_figures.patient_balance(run)
    of_patients = balance.numbers.set_index("patient")
    for label, name in enumerate(CLASS_NAMES[1:], 1):
        assert of_patients[name].to_dict() == (index["label"] == label).groupby(index["patient"]).sum().to_dict()
    heights = sum(bar.get_height() for axes in balance.figure.axes for bars in axes.containers for bar in bars)
    assert heights == len(index)


@pytest.mark.parametrize(
    "draw",
    [
        data_figures.examples, gan_figures.samples, synthesis_figures.latent_walk, synthesis_figures.attribute_sweep,
        synthesis_figures.steering, explanation_figures.explanations_by_class, explanation_figures.feature_maps,
        embedding_figure.embedding, data_figures.density, data_figures.image_properties,
    ],
)  # fmt: skip
def test_every_class_is_shown(run, draw):
    drawn = draw(run)
    column = {data_figures.density: None, explanation_figures.explanations_by_class: "label"}.get(draw, "class")
    drawn_classes = drawn.numbers[column].unique() if column else drawn.numbers.columns
    assert set(CLASS_NAMES) <= set(drawn_classes)


@pytest.mark.parametrize(
    "draw",
    [
        data_figures.examples, gan_figures.samples, synthesis_figures.translations,
        explanation_figures.explanations_by_class, explanation_figures.feature_maps, slide_figures.slide_maps,
    ],
)  # fmt: skip
def test_without_patient_images_there_are_synthetic_ones_of_every_class(run, draw):
    drawn = draw(run._replace(patient_images=False))
    assert len(drawn.numbers)
    assert "real" not in set(drawn.numbers.get("kind", ()))
    assert not any(axes.get_title(loc="left") == "Tissue" for axes in drawn.figure.axes)


def test_the_explained_class_has_its_colour(tiny_run):
    """The first of two classes may be explained; it is called above one minus the threshold."""
    evaluate = tiny_run.experiment.evaluate.replace(explained_class="benign")
    changed = tiny_run._replace(experiment=tiny_run.experiment.replace(evaluate=evaluate))
    drawn = explanation_figures.explanations(changed)
    assert "blue supports benignity, orange against" in drawn.caption
    unchanged = explanation_figures.explanations(tiny_run)
    assert "orange supports malignancy, blue against" in unchanged.caption
    threshold = tiny_run.metrics["gan_resnet"]["thresholds"]["0"]
    numbers = drawn.numbers
    expected = np.where(1 - numbers["probability"] >= threshold, "malignant", "benign")
    np.testing.assert_array_equal(numbers["called"], expected)


def test_a_class_without_a_test_patch_is_not_defined(run):
    """Few patients have a rare class, and perhaps none of the test patients."""
    table = run.probabilities
    table = table[(table["role"] != "test") | (table["label"] != 1)].reset_index(drop=True)
    counts = run.split["counts"]["test"]["by_class"] | {"in_situ": 0}
    test_counts = run.split["counts"]["test"] | {"patches": sum(counts.values()), "by_class": counts}
    split = run.split | {"counts": run.split["counts"] | {"test": test_counts}}
    rare = run._replace(probabilities=table, metrics=measure(run.experiment, table), split=split)
    name = rare.classifier_names[0]
    assert tables.per_class(rare, [name]).set_index("Class").at["in situ", "ROC AUC"] == "not defined"
    for draw in (class_curves.roc, class_curves.precision_recall, class_curves.reliability):
        drawn = draw(rare)
        assert len(drawn.figure.legends[0].get_texts()) == 3
    assert "in situ: not defined" in [text.get_text() for text in class_curves.roc(rare).figure.legends[0].get_texts()]
    cells = classifier_figures.confusion(rare).numbers
    assert (cells.loc[cells["true"] == "in_situ", ["patches", "share"]] == 0).all(axis=None)
    for draw in (patient_figures.per_patient, patient_figures.patient_shares, explanation_figures.error_gallery):
        assert len(draw(rare).numbers)


def test_translations_are_between_the_pair_of_classes(tiny_run):
    names = ("normal", "in_situ", "invasive")
    run = with_classes(tiny_run, names)
    for drawn in (synthesis_figures.translations(run), synthesis_figures.counterfactuals(run)):
        assert set(drawn.numbers["class"]) == {"normal", "invasive"}
        assert "benign" not in drawn.caption
    assert synthesis_figures.translations(run).title == "Translations between normal and invasive"


def test_slide_maps_show_the_called_classes(run):
    drawn = slide_figures.slide_maps(run)
    table = drawn.numbers
    held_out = run.probabilities.set_index(["role", "patient", "x", "y"]).loc[
        list(table[["role", "patient", "x", "y"]].itertuples(index=False, name=None))
    ]
    name = "ensemble_spatial_context"
    np.testing.assert_array_equal(table["called"], run.mean_calls(name, held_out))
    np.testing.assert_allclose(table["probability_of_label"], run.true_probabilities(name, held_out))
    (axes, *_) = (axes for axes in drawn.figure.axes if axes.get_title(loc="left") == "Annotated")
    drawn_colors = {
        style.matplotlib.colors.to_hex(color) for color in np.asarray(axes.images[0].get_array()).reshape(-1, 4)
    }
    assert drawn_colors <= {color.lower() for color in run.class_colors.values()} | {"#ffffff"}
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == run.class_texts


def test_the_largest_errors_are_the_least_probable_labels(run, test_rows):
    table = tables.largest_errors(run)
    scores = run.mean_probabilities(run.classifier_names[0], test_rows)
    rows = {patch: row for row, patch in enumerate(test_rows["id"])}
    assert len(table)
    for row in table.to_dict("records"):
        of_patch = scores[rows[row["Patch"]]]
        assert row["Called"] == run.class_texts[of_patch.argmax()] != row["Label"]
        assert row["Probability of the label"] == pytest.approx(of_patch[run.class_texts.index(row["Label"])], abs=1e-4)
    for _, of_class in table.groupby("Label"):
        assert of_class["Probability of the label"].is_monotonic_increasing
        assert of_class["Patient"].is_unique
    drawn = explanation_figures.error_gallery(run)
    labels = [axes.get_xlabel().split("\n")[1] for axes in drawn.figure.axes if axes.get_xlabel()]
    assert labels == drawn.numbers["Called"].tolist()


def test_cards_and_alerts_name_the_classes(run):
    answers = dict(cards.model_card(run).itertuples(index=False))
    assert answers["Task"].endswith("a probability of each class")
    assert answers["Chosen by"].endswith("the most probable class is called")
    patches = dict(cards.data_card(run).itertuples(index=False))["Patches"]
    assert re.search(r"\d+ benign \([\d.]+%\), \d+ in situ \([\d.]+%\), \d+ malignant", patches)
    assert "label 0 benign, 1 in situ and 2 malignant" in " ".join(cards.claim(run)["Answer"])
    assert not any("misleading" in text for text in alerts.list_alerts(run))
    counts = run.split["counts"]
    rare = counts["test"] | {"by_class": {"benign": 50, "in_situ": 2, "malignant": 48}}
    messages = alerts.list_alerts(run._replace(split=run.split | {"counts": counts | {"test": rare}}))
    assert "2% of the test patches are in situ: accuracy alone is misleading." in messages


def test_the_page_has_no_dead_links_and_no_text_for_two_classes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FIGURES", {section: {} for section in page.FIGURES})
    monkeypatch.setattr(page, "read", lambda *_: run)
    rendered = page.render(run.experiment, tmp_path / "run", tmp_path / "report", True)
    for text in (rendered.read_text(), rendered.with_suffix(".md").read_text()):
        assert "Benign, in situ or malignant, patch by patch." in text
        assert "Each class against the rest" in text
        assert "defined for two classes" in text
        assert "probability of malignancy" not in text
    names = re.findall(r'data-file="([^"]+)"', rendered.read_text())
    assert "per_class.csv" in names
    assert all((rendered.parent / "tables" / name).exists() for name in names)
    results = json.loads((rendered.parent / "results.json").read_text())
    of_first = results["classifiers"][run.classifier_names[0]]
    assert set(of_first["by_class"]["test"]) == set(CLASS_NAMES)
    assert {"roc_auc", "balanced_accuracy"} <= of_first["test"].keys()
    assert results["protocol"]["roles"]["test"]["by_class"] == run.split["counts"]["test"]["by_class"]


def test_reports_on_other_classes_are_compared(run, tiny_run, tmp_path):
    names = []
    for name, of_classes in (("two", tiny_run), ("three", run)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "results.json"
        path.write_text(json.dumps(collect_results(of_classes, {})))
        names.append(str(path))
    compare.render(names, tmp_path / "out")
    protocol = pd.read_csv(tmp_path / "out/protocol.csv").set_index("Figure")
    assert protocol.loc["Classes"].tolist()[:2] == ["benign, malignant", "benign, in situ, malignant"]
    by_class = pd.read_csv(tmp_path / "out/each_class_against_the_rest.csv", dtype=str).set_index("Figure")
    measured = run.metrics["gan_resnet"]["by_class"]["test"]["in_situ"]["roc_auc"]
    row = by_class.loc[f"{style.CLASSIFIER_NAMES['gan_resnet']}, in situ: ROC AUC"]
    assert (row["two"], row["three"]) == ("unknown", format_estimate(measured))
    compare.render(names[:1] * 2, tmp_path / "same")
    assert not (tmp_path / "same/each_class_against_the_rest.csv").exists()
    assert "Classes" not in pd.read_csv(tmp_path / "same/protocol.csv")["Figure"].tolist()


def test_two_classes_of_other_names_are_named(tiny_run):
    run = with_classes(tiny_run, ("normal", "tumor"))
    assert run.role_summary("test").endswith(f"{run.class_counts('test')[1]} tumor")
    assert tables.counts(run).columns[-1] == "Tumor"
    assert {"Tumor found", "Normal spared", "called tumor"} <= set(tables.operating_points(run))
    assert tables.largest_errors(run).columns[-1] == "Probability of tumor"
    texts = [*alerts.list_alerts(run), *cards.model_card(run)["Answer"], *gan_tables.gan_scores(run)["For comparison"]]
    for draw in (
        data_figures.examples, data_figures.count_plot, data_figures.patient_balance, data_figures.density,
        classifier_figures.confusion, patient_figures.patient_shares, explanation_figures.error_gallery,
        slide_figures.slide_maps,
    ):  # fmt: skip
        drawn = draw(run)
        texts += [drawn.title, drawn.caption, *drawn.numbers.columns]
        texts += [axes.get_xlabel() + axes.get_ylabel() for axes in drawn.figure.axes]
        style.plt.close(drawn.figure)
    assert not [text for text in texts if re.search("malignan|benign", str(text), re.I)]
