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
    axes = classifier_curves.precision_recall(run).figure.axes[0]
    for name, line in zip(run.classifier_names, axes.lines, strict=False):
        found = []
        for scores in run.probabilities_by_seed(name, test_rows).values():
            best = scores[test_rows["label"] == 1].max()
            found.append(precision_score(test_rows["label"], scores >= best))
        assert line.get_ydata()[0] == pytest.approx(np.mean(found))


def test_a_roc_curve_is_the_mean_of_scikit_learns_and_the_legend_says_the_area(run, test_rows):
    second = run.probabilities.assign(**{"gan_resnet-seed1": run.probabilities["gan_resnet-seed0"].round(1)})
    run = run._replace(probabilities=second)
    drawn = classifier_curves.roc(run)
    axes = drawn.figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("1 - specificity", "Sensitivity")
    assert len(axes.lines) == len(run.classifier_names) + 1  # chance
    assert run.seeds("gan_resnet") == [0, 1]
    said = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    labels, across = test_rows["label"], np.linspace(0, 1, 201)
    for name, text, line in zip(run.classifier_names, said, axes.lines, strict=False):
        scores = run.probabilities_by_seed(name, second.loc[test_rows.index]).values()
        expected = np.mean([np.interp(across, *roc_curve(labels, one)[:2]) for one in scores], axis=0)
        np.testing.assert_allclose(line.get_xdata(), across)
        np.testing.assert_allclose(line.get_ydata(), expected)
        # Without a single false call those are found that lie above every benign patch.
        found = np.mean([(one[labels == 1] > one[labels == 0].max()).mean() for one in scores])
        assert line.get_ydata()[0] == pytest.approx(found)
        assert line.get_color() == CLASSIFIER_COLORS[name]
        numbers = drawn.numbers[drawn.numbers["classifier"] == name]
        np.testing.assert_allclose(numbers[["1 - specificity", "Sensitivity"]], line.get_xydata())
        if name != "gan_resnet":
            area = np.mean([roc_auc_score(labels, one) for one in scores])
            assert text.startswith(f"{CLASSIFIER_NAMES[name]}: {area:.3f}")
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
    for name, line in zip(run.classifier_names, axes.lines[2:], strict=True):
        one = drawn.numbers[drawn.numbers["classifier"] == name]
        np.testing.assert_allclose(line.get_xydata(), one[["threshold", "net_benefit"]])


def test_reliability_bins_hold_every_patch(run, test_rows):
    """The mean of what was observed in them, each as often as it has patches, is the share of malignant patches."""
    drawn = classifier_curves.reliability(run)
    for axes, title in zip(drawn.figure.axes, ("As it is", "After scaling"), strict=True):
        part = drawn.numbers[drawn.numbers["probabilities"] == title]
        for name, line in zip(run.classifier_names, axes.lines[1:], strict=True):
            points = part.loc[part["classifier"] == name, ["predicted", "observed"]].to_numpy()
            np.testing.assert_allclose(line.get_xydata(), points)
            scores = run.mean_probabilities(name, test_rows)
            if title == "After scaling":
                scaled = [run.calibrated_probabilities(name, seed, test_rows) for seed in run.seeds(name)]
                scores = np.mean(scaled, axis=0)
            edges = np.percentile(scores, np.arange(10, 100, 10))
            counts = np.bincount(np.searchsorted(edges, scores))
            assert np.average(points[:, 1], weights=counts[counts > 0]) == pytest.approx(test_rows["label"].mean())
            assert np.average(points[:, 0], weights=counts[counts > 0]) == pytest.approx(np.mean(scores))
