"""Curves of the classifiers on the test patients, of two classes: ROC, precision-recall, reliability, net benefit.

Those of more classes are in `class_curves`.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from bcgan.classes import class_noun
from bcgan.evaluate.intervals import format_estimate, patient_weights
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_COLORS, CLASSIFIER_NAMES, METRIC_NAMES, MUTED, ReportFigure

CURVE_POINTS = 201  # along the x axis, at which the curves of the seeds are averaged
BAND_RESAMPLES = 300  # bootstrap curves that a band is the quantiles of

# From labels, scores and `sample_weight` to x, increasing, and y; as scikit-learn's curves.
CurveFunction = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


def roc(run: Run) -> ReportFigure:
    """Draw ROC curves of the test patients, one line per classifier."""
    return _draw_curves(
        run, "roc_auc", roc_curve, ("1 - specificity", "Sensitivity"), "ROC curves",
        "ROC curves; the diagonal is chance.",
    )  # fmt: skip


def precision_recall(run: Run) -> ReportFigure:
    """Draw precision-recall curves of the test patients, one line per classifier."""
    counts = run.role_counts("test")
    share = counts["positives"] / counts["patches"]
    return _draw_curves(
        run, "pr_auc", recall_precision_curve, ("Recall (sensitivity)", "Precision"), "Precision-recall curves",
        f"Precision-recall curves; the dotted line is the share of {run.class_texts[1]} patches, {share:.2f}: chance.",
    )  # fmt: skip


def recall_precision_curve(labels, scores, sample_weight=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return recall, increasing, precision and thresholds."""
    precision, recall, thresholds = precision_recall_curve(labels, scores, sample_weight=sample_weight)
    has_recall = recall > 0  # without a true positive, precision is 0 or, by convention, 1
    return recall[has_recall][::-1], precision[has_recall][::-1], thresholds


def reliability(run: Run) -> ReportFigure:
    """Draw the observed share of the second class against the probability, as predicted and after calibration.

    The ten bins have equal numbers of patches.
    """
    test = run.test_predictions
    figure, grid = plt.subplots(1, 2, figsize=(8.4, 5.9), sharey=True)
    rows = []
    panels = (("As it is", False), ("After scaling", True))
    for axes, (title, is_calibrated) in zip(grid, panels, strict=True):
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
        for name in run.classifier_names:
            scores = run.mean_probabilities(name, test)
            if is_calibrated:
                by_seed = [run.calibrated_probabilities(name, seed, test) for seed in run.seeds(name)]
                scores = np.mean(by_seed, axis=0)
            test_metrics = run.metrics[name]["sets"]["test"]
            errors = ", ".join(format_estimate(test_metrics[metric]) for metric in ("ece", "ece_calibrated"))
            points = plot_reliability(
                axes, test["label"], scores, color=CLASSIFIER_COLORS[name], zorder=_line_order(run, name),
                label=f"{CLASSIFIER_NAMES[name]}: {errors}" if axes is grid[0] else None,
            )  # fmt: skip
            rows += [{"probabilities": title, "classifier": name, **point} for point in points]
        axes.set(xlabel=f"Mean probability of {class_noun(run.class_names[1])}", title=title)
    grid[0].set_ylabel(f"Observed share {run.class_texts[1]}")
    legend_below(figure, "Expected calibration error, as it is and after scaling")
    sns.despine(figure)
    caption = (
        "Reliability, ten bins of equal size, as the networks say and after temperature and shift from the validation "
        f"patients: {run.role_summary('test')}. Dotted: perfect. The error is over ten equally wide bins, with "
        f"{run.experiment.evaluate.confidence_level:.0%} intervals by {run.bootstrap_note()}; resampling raises it, so "
        "that a small one may lie below its interval."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Reliability", caption)


def plot_reliability(axes: plt.Axes, is_class, scores: np.ndarray, **line) -> list[dict[str, float]]:
    """Draw the observed share of a class against its probability, in ten bins of equal size.

    Args:
        is_class: (n,). Whether a patch is of the class.
        scores: (n,). Probabilities of the class.
        line: Arguments of `Axes.plot`.

    Returns:
        {predicted, observed} for each bin.
    """
    observed, predicted = calibration_curve(is_class, scores, n_bins=10, strategy="quantile")
    axes.plot(predicted, observed, "o-", ms=3.5, **line)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return [{"predicted": p, "observed": o} for p, o in zip(predicted, observed, strict=True)]


def decision_curve(run: Run) -> ReportFigure:
    """Draw the net benefit of acting on the calibrated probability, on all patches and on none (Vickers 2006)."""
    test = run.test_predictions
    is_second, second = test["label"].to_numpy() == 1, run.class_texts[1]
    thresholds = np.linspace(0.01, 0.9, 90)
    odds = thresholds / (1 - thresholds)
    share = is_second.mean()
    benefit_of_all = share - (1 - share) * odds
    figure, axes = plt.subplots(figsize=(6.2, 4.8))
    axes.plot(thresholds, benefit_of_all, color=MUTED, ls="--", lw=1, label=f"Call every patch {second}")
    axes.axhline(0, color=MUTED, ls=":", lw=1, label="Call none")
    curves = {"all": benefit_of_all}
    for name in run.classifier_names:
        benefits = []
        for seed in run.seeds(name):
            called = run.calibrated_probabilities(name, seed, test)[:, None] >= thresholds
            benefits.append((called & is_second[:, None]).mean(0) - (called & ~is_second[:, None]).mean(0) * odds)
        curves[name] = np.mean(benefits, axis=0)
        axes.plot(
            thresholds, curves[name], color=CLASSIFIER_COLORS[name], label=CLASSIFIER_NAMES[name],
            zorder=_line_order(run, name),
        )  # fmt: skip
    lowest = min(curves[name].min() for name in run.classifier_names)
    axes.set(xlabel=f"Probability above which a patch is called {second}", ylabel="Net benefit (true calls a patch)",
             xlim=(0, 0.9), ylim=(min(-0.03, lowest - 0.005), share * 1.05))  # fmt: skip
    legend_below(figure)
    sns.despine(figure)
    caption = (
        f"Decision curves: {run.role_summary('test')}; probabilities calibrated on validation patients. A false call "
        "counts as much against a true one as the odds of the threshold say."
    )
    tables = [pd.DataFrame({"classifier": name, "threshold": thresholds, "net_benefit": benefit})
              for name, benefit in curves.items()]  # fmt: skip
    return ReportFigure(figure, pd.concat(tables, ignore_index=True), "Decision curves", caption)


def legend_below(figure, title: str | None = None) -> None:
    """Add a legend below the axes: among many lines there is no free space."""
    figure.legend(fontsize=7.5, title=title, title_fontsize=8, loc="outside lower center", ncol=1 if title else 2)


def _line_order(run: Run, name: str) -> int:
    """Return the z-order of a classifier's line: the first classifier's is on top of others that nearly coincide."""
    return 4 if name == run.classifier_names[0] else 3


def _draw_curves(
    run: Run, metric: str, curve: CurveFunction, labels: tuple[str, str], title: str, caption: str
) -> ReportFigure:
    """Draw the mean curve of every classifier over its seeds, with a band for the first classifier.

    Args:
        metric: The area under the curve, which the legend states.
        curve: Computes a curve from labels and scores.
        labels: Of the x and y axes.
        caption: Its first sentence.
    """
    test = run.test_predictions
    figure, axes = plt.subplots(figsize=(4.8, 6.2))
    x, tables = np.linspace(0, 1, CURVE_POINTS), []
    for name in run.classifier_names:
        y = mean_curve(curve, test["label"], list(run.probabilities_by_seed(name, test).values()), x)
        label = f"{CLASSIFIER_NAMES[name]}: {format_estimate(run.metrics[name]['sets']['test'][metric])}"
        axes.plot(x, y, color=CLASSIFIER_COLORS[name], lw=1.6, label=label, zorder=_line_order(run, name))
        tables.append(pd.DataFrame({"classifier": name, labels[0]: x, labels[1]: y}))
    first = run.classifier_names[0]
    low, high = _bootstrap_band(run, test, first, curve, x)
    axes.fill_between(x, low, high, color=CLASSIFIER_COLORS[first], alpha=0.18, lw=0, zorder=0)
    tables[0] = tables[0].assign(low=low, high=high)
    if metric == "roc_auc":
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
    else:
        axes.axhline(test["label"].mean(), ls=":", color=MUTED)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.01, 1.01), ylim=(0, 1.01))
    legend_below(figure, METRIC_NAMES[metric])
    sns.despine(figure)
    settings = run.experiment.evaluate
    caption = (
        f"{caption} {run.role_summary('test')}; each line the mean of {run.seeds_text()} at equal "
        f"{labels[0].lower()}; {settings.confidence_level:.0%} intervals by {run.bootstrap_note()}, "
        f"{settings.bootstrap_samples:,} resamples; band of {CLASSIFIER_NAMES[first]}: patients alone, "
        f"{min(BAND_RESAMPLES, settings.bootstrap_samples)}."
    )
    return ReportFigure(figure, pd.concat(tables), title, caption)


def mean_curve(curve: CurveFunction, labels, scores: list[np.ndarray], x: np.ndarray, weights=None) -> np.ndarray:
    """Return a curve's height at `x`, the mean over the seeds; `scores` has probabilities of each seed."""
    curves = [curve(labels, of_seed, sample_weight=weights)[:2] for of_seed in scores]
    return np.mean([np.interp(x, *points) for points in curves], axis=0)


def _bootstrap_band(run: Run, test: pd.DataFrame, name: str, curve: CurveFunction, x: np.ndarray) -> np.ndarray:
    """Return the lower and upper limit of a classifier's mean curve at `x`, by patient bootstrap: (2, len(x))."""
    settings, scores = run.experiment.evaluate, run.probabilities_by_seed(name, test).values()
    labels = test["label"].to_numpy()
    weights = patient_weights(test["patient"].to_numpy(), settings.bootstrap_samples, run.experiment.seed)
    has_both_classes = [np.ptp(labels[row > 0]) > 0 for row in weights]
    weights = weights[has_both_classes][:BAND_RESAMPLES]
    curves = [
        mean_curve(curve, labels[row > 0], [of_seed[row > 0] for of_seed in scores], x, row[row > 0]) for row in weights
    ]
    tail = (1 - settings.confidence_level) / 2
    return np.quantile(curves, (tail, 1 - tail), axis=0)
