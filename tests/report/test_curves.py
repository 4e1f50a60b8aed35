"""Curves of the classifiers against scikit-learn and the run's own tables."""

import numpy as np
import pytest
from sklearn.metrics import precision_score, roc_auc_score, roc_curve

from bcgan.classify.calibration import Calibration, apply
from bcgan.report import (
    classifier_curves,
)
from bcgan.report.style import CLASSIFIER_COLORS, CLASSIFIER_NAMES


def test_precision_begins_with_the_first_true_call(run, test_rows):
    """Above the threshold of the best malignant patch there is none, and a curve would fall to 0 there."""
    numbers = classifier_curves.precision_recall(run).numbers
    for name in run.classifier_names:
        found = []
        for scores in run.probabilities_by_seed(name, test_rows).values():
            best = scores[test_rows["label"] == 1].max()
            found.append(precision_score(test_rows["label"], scores >= best))
        assert numbers.loc[numbers["classifier"] == name, "Precision"].iloc[0] == pytest.approx(np.mean(found))


def test_a_roc_curve_is_the_mean_of_scikit_learns_and_the_legend_says_the_area(run, test_rows):
    second = run.probabilities.assign(**{"gan_resnet-seed1": run.probabilities["gan_resnet-seed0"].round(1)})
    run = run._replace(probabilities=second)
    drawn = classifier_curves.roc(run)
    axes = drawn.figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("1 - specificity", "Sensitivity")
    assert run.seeds("gan_resnet") == [0, 1]
    said = {text.get_text() for text in drawn.figure.legends[0].get_texts()}
    labels, across = test_rows["label"], np.linspace(0, 1, 201)
    shown = classifier_curves.highlighted(run)
    colors = [line.get_color() for line in axes.lines if len(line.get_xdata()) == len(across)]
    assert colors[: len(shown)] == [CLASSIFIER_COLORS[name] for name in shown]
    assert set(colors[len(shown) :]) == {classifier_curves.GRAY_LINE_COLOR}
    assert len(colors) == len(run.classifier_names)
    for name in run.classifier_names:
        scores = run.probabilities_by_seed(name, second.loc[test_rows.index]).values()
        expected = np.mean([np.interp(across, *roc_curve(labels, one)[:2]) for one in scores], axis=0)
        numbers = drawn.numbers[drawn.numbers["classifier"] == name]
        np.testing.assert_allclose(numbers["1 - specificity"], across)
        np.testing.assert_allclose(numbers["Sensitivity"], expected)
        # Without a single false call those are found that lie above every benign patch.
        found = np.mean([(one[labels == 1] > one[labels == 0].max()).mean() for one in scores])
        assert numbers["Sensitivity"].iloc[0] == pytest.approx(found)
        if name in shown:
            drawn_lines = [line for line in axes.lines if line.get_color() == CLASSIFIER_COLORS[name]]
            np.testing.assert_allclose(drawn_lines[0].get_ydata(), expected)
        if name != "gan_resnet" and name in shown:
            area = np.mean([roc_auc_score(labels, one) for one in scores])
            assert any(text.startswith(f"{CLASSIFIER_NAMES[name]}: {area:.3f}") for text in said)
    assert "each line the mean of 2 seeds (1: GAN alone)" in drawn.caption


@pytest.mark.parametrize("draw", [classifier_curves.roc, classifier_curves.precision_recall])
def test_the_band_holds_the_curve_of_the_proposed_classifier(run, draw):
    """Not everywhere: it is a band for every place by itself, and there are few patients here."""
    drawn = draw(run)
    table, line = drawn.numbers, drawn.figure.axes[0].lines[0]
    band = table.dropna()
    assert set(band["classifier"]) == {run.classifier_names[0]}
    across = band[drawn.figure.axes[0].get_xlabel()].to_numpy()
    assert (band["low"] <= band["high"]).all() and band[["low", "high"]].stack().between(0, 1).all()
    inside = np.interp(across, line.get_xdata(), line.get_ydata())
    assert ((inside >= band["low"] - 1e-9) & (inside <= band["high"] + 1e-9)).mean() > 0.8


def test_the_decision_curve_is_true_calls_less_false_ones_at_the_odds(run, test_rows):
    drawn = classifier_curves.decision_curve(run)
    malignant, threshold = test_rows["label"].to_numpy() == 1, 0.25
    shown = drawn.numbers[np.isclose(drawn.numbers["threshold"], threshold)].set_index("classifier")["net_benefit"]
    for name in run.classifier_names:
        benefits = []
        for seed, scores in run.probabilities_by_seed(name, test_rows).items():
            fitted = Calibration(**run.metrics[name]["calibration"][str(seed)])
            called = apply(fitted, scores) >= threshold
            benefits.append(((called & malignant).sum() - (called & ~malignant).sum() / 3) / len(malignant))
        assert shown[name] == pytest.approx(np.mean(benefits))
    assert shown["all"] == pytest.approx(malignant.mean() - (1 - malignant.mean()) / 3)
    axes = drawn.figure.axes[0]
    for name, line in zip(classifier_curves.highlighted(run), axes.lines[2:], strict=False):
        one = drawn.numbers[drawn.numbers["classifier"] == name]
        np.testing.assert_allclose(line.get_xydata(), one[["threshold", "net_benefit"]])


def test_reliability_has_the_bins_of_the_error(run, test_rows):
    """Every patch is in one, and the mean distance of both sides is the calibration error of the tables."""
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


def test_the_published_point_is_drawn_beside_the_same_data_alone(run):
    point = classifier_curves.PUBLISHED_POINT
    assert (point.sensitivity + point.specificity) / 2 == pytest.approx(0.8423, abs=1e-4)  # as published
    assert 2 * point.precision * point.sensitivity / (point.precision + point.sensitivity) == pytest.approx(
        0.718, abs=1e-3
    )
    assert "Cruz-Roa" in classifier_curves.roc(run).caption
    other = run._replace(experiment=run.experiment.replace(data=run.experiment.data.replace(name="patient_folder")))
    assert "Cruz-Roa" not in classifier_curves.roc(other).caption
