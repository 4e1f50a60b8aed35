"""Curves of the classifiers against scikit-learn and the run's own tables."""

import numpy as np
import pytest
from sklearn.metrics import precision_score, roc_auc_score, roc_curve

from bcgan.classify.calibration import Calibration, apply
from bcgan.report import (
    classifier_curves,
)
from bcgan.report.style import CLASSIFIER_COLORS, CLASSIFIER_NAMES


def test_precision_begins_at_the_score_of_the_best_malignant_patch(run, test_rows):
    """Above that threshold no malignant patch is called, and the curve would fall to 0."""
    numbers = classifier_curves.precision_recall(run).numbers
    for name in run.classifier_names:
        precisions = []
        for scores in run.probabilities_by_seed(name, test_rows).values():
            best = scores[test_rows["label"] == 1].max()
            precisions.append(precision_score(test_rows["label"], scores >= best))
        assert numbers.loc[numbers["classifier"] == name, "Precision"].iloc[0] == pytest.approx(np.mean(precisions))


def test_a_roc_curve_is_the_mean_of_scikit_learns_and_the_legend_says_the_area(run, test_rows):
    two_seeds = run.probabilities.assign(**{"gan_resnet-seed1": run.probabilities["gan_resnet-seed0"].round(1)})
    run = run._replace(probabilities=two_seeds)
    drawn = classifier_curves.roc(run)
    axes = drawn.figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("1 - specificity", "Sensitivity")
    assert run.seeds("gan_resnet") == [0, 1]
    legend_texts = {text.get_text() for text in drawn.figure.legends[0].get_texts()}
    labels, across = test_rows["label"], np.linspace(0, 1, 201)
    highlighted = classifier_curves.highlighted(run)
    colors = [line.get_color() for line in axes.lines if len(line.get_xdata()) == len(across)]
    assert colors[: len(highlighted)] == [CLASSIFIER_COLORS[name] for name in highlighted]
    assert set(colors[len(highlighted) :]) == {classifier_curves.GRAY_LINE_COLOR}
    assert len(colors) == len(run.classifier_names)
    for name in run.classifier_names:
        scores = run.probabilities_by_seed(name, two_seeds.loc[test_rows.index]).values()
        expected = np.mean([np.interp(across, *roc_curve(labels, seed_scores)[:2]) for seed_scores in scores], axis=0)
        numbers = drawn.numbers[drawn.numbers["classifier"] == name]
        np.testing.assert_allclose(numbers["1 - specificity"], across)
        np.testing.assert_allclose(numbers["Sensitivity"], expected)
        # Without a false positive, the malignant patches above every benign one are found.
        sensitivity = np.mean(
            [(seed_scores[labels == 1] > seed_scores[labels == 0].max()).mean() for seed_scores in scores]
        )
        assert numbers["Sensitivity"].iloc[0] == pytest.approx(sensitivity)
        if name in highlighted:
            drawn_lines = [line for line in axes.lines if line.get_color() == CLASSIFIER_COLORS[name]]
            np.testing.assert_allclose(drawn_lines[0].get_ydata(), expected)
        if name != "gan_resnet" and name in highlighted:
            area = np.mean([roc_auc_score(labels, seed_scores) for seed_scores in scores])
            assert any(text.startswith(f"{CLASSIFIER_NAMES[name]}: {area:.3f}") for text in legend_texts)
    assert "each line the mean of 2 seeds (1: GAN alone)" in drawn.caption


@pytest.fixture
def ten_patients(run):
    """The run, as if its test patches were of ten patients, each with patches of both classes."""
    probabilities = run.probabilities.copy()
    is_test = probabilities["role"] == "test"
    places = probabilities[is_test].groupby("label").cumcount()
    probabilities.loc[is_test, "patient"] = [f"patient{place % 10}" for place in places]
    return run._replace(probabilities=probabilities)


def test_two_test_patients_give_no_band(run):
    assert run.test_predictions["patient"].nunique() == 2
    for draw in (classifier_curves.roc, classifier_curves.precision_recall):
        drawn = draw(run)
        assert drawn.numbers[["low", "high"]].isna().all(axis=None)
        assert not drawn.figure.axes[0].collections
        assert "no intervals, as there are fewer than 8 test patients." in drawn.caption
        assert "bootstrap" not in drawn.caption and "band" not in drawn.caption


def test_the_band_is_that_of_the_trainings_where_only_they_differ(ten_patients):
    """Of two, one is always right and one always wrong: Student's t with one degree of freedom."""
    name, right = "gan_resnet", ten_patients.probabilities["label"] * 0.8 + 0.1
    scores = {f"{name}-seed0": right, f"{name}-seed1": 1 - right}
    evaluate = ten_patients.experiment.evaluate.replace(confidence_level=0.4)  # from 30 % to 70 % of the resamples
    run = ten_patients._replace(
        probabilities=ten_patients.probabilities.assign(**scores),
        experiment=ten_patients.experiment.replace(evaluate=evaluate),
    )
    band = classifier_curves.roc(run).numbers.query("classifier == @name").iloc[1:-1]
    np.testing.assert_allclose(band["Sensitivity"], 0.5)
    half_width = 0.5 * np.tan(np.pi * 0.2)  # its quantile of 70 %, times the standard error of the mean
    np.testing.assert_allclose(band["low"], 0.5 - half_width, atol=0.02)
    np.testing.assert_allclose(band["high"], 0.5 + half_width, atol=0.02)


@pytest.mark.parametrize("draw", [classifier_curves.roc, classifier_curves.precision_recall])
def test_the_band_holds_the_curve_of_the_proposed_classifier(ten_patients, draw):
    """Not everywhere: the band is pointwise, and this run has few patches."""
    run = ten_patients
    drawn = draw(run)
    assert "intervals by a bootstrap of patients, 50 resamples; band of GAN+ResNet" in drawn.caption
    table, line = drawn.numbers, drawn.figure.axes[0].lines[0]
    band = table.dropna()
    assert set(band["classifier"]) == {run.classifier_names[0]}
    across = band[drawn.figure.axes[0].get_xlabel()].to_numpy()
    assert (band["low"] <= band["high"]).all() and band[["low", "high"]].stack().between(0, 1).all()
    inside = np.interp(across, line.get_xdata(), line.get_ydata())
    assert ((inside >= band["low"] - 1e-9) & (inside <= band["high"] + 1e-9)).mean() > 0.8


def test_the_net_benefit_is_true_positives_less_false_positives_times_the_odds(run, test_rows):
    drawn = classifier_curves.decision_curve(run)
    malignant, threshold = test_rows["label"].to_numpy() == 1, 0.25
    at_threshold = drawn.numbers[np.isclose(drawn.numbers["threshold"], threshold)].set_index("classifier")[
        "net_benefit"
    ]
    for name in run.classifier_names:
        benefits = []
        for seed, scores in run.probabilities_by_seed(name, test_rows).items():
            fitted = Calibration(**run.metrics[name]["calibration"][str(seed)])
            called = apply(fitted, scores) >= threshold
            benefits.append(((called & malignant).sum() - (called & ~malignant).sum() / 3) / len(malignant))
        assert at_threshold[name] == pytest.approx(np.mean(benefits))
    assert at_threshold["all"] == pytest.approx(malignant.mean() - (1 - malignant.mean()) / 3)
    axes = drawn.figure.axes[0]
    for name, line in zip(classifier_curves.highlighted(run), axes.lines[2:], strict=False):
        points = drawn.numbers[drawn.numbers["classifier"] == name]
        np.testing.assert_allclose(line.get_xydata(), points[["threshold", "net_benefit"]])


def test_reliability_has_the_bins_of_the_error(run, test_rows):
    """Every patch is in one bin, and the mean distance of observed and predicted is the calibration error."""
    drawn = classifier_curves.reliability(run)
    for name in classifier_curves.highlighted(run):
        for title, metric in (("As it is", "ece"), ("After scaling", "ece_calibrated")):
            is_shown = (drawn.numbers["classifier"] == name) & (drawn.numbers["probabilities"] == title)
            points = drawn.numbers[is_shown]
            assert points["patches"].sum() == pytest.approx(len(test_rows))
            assert np.average(points["observed"], weights=points["patches"]) == pytest.approx(test_rows["label"].mean())
            error = np.average((points["observed"] - points["predicted"]).abs(), weights=points["patches"])
            if len(run.seeds(name)) == 1:
                assert error == pytest.approx(run.metrics[name]["sets"]["test"][metric]["value"], abs=1e-6)


def test_the_published_point_is_drawn_only_for_the_same_data(run):
    point = classifier_curves.PUBLISHED_POINT
    assert (point.sensitivity + point.specificity) / 2 == pytest.approx(0.8423, abs=1e-4)  # as published
    assert 2 * point.precision * point.sensitivity / (point.precision + point.sensitivity) == pytest.approx(
        0.718, abs=1e-3
    )
    assert "Cruz-Roa" in classifier_curves.roc(run).caption
    other_data = run._replace(
        experiment=run.experiment.replace(data=run.experiment.data.replace(name="patient_folder"))
    )
    assert "Cruz-Roa" not in classifier_curves.roc(other_data).caption
