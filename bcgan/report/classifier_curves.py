"""Curves of the classifiers on the test patients, of two classes: ROC, precision-recall, reliability, net benefit.

Those of more classes are in `class_curves`.
"""

from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.metrics import precision_recall_curve, roc_curve

from bcgan.classes import class_noun
from bcgan.evaluate.intervals import format_estimate, patient_weights, resampled_means
from bcgan.evaluate.metrics import CALIBRATION_BINS
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_COLORS, CLASSIFIER_NAMES, INK, METRIC_NAMES, MUTED, ReportFigure
from bcgan.report.wording import count_text

CURVE_POINTS = 201  # along the x axis, at which the curves of the seeds are averaged
NUM_HIGHLIGHTED = 3  # classifiers that curves show in color
MIN_INSET_AUC = 0.85  # of every highlighted curve; a lower one would cross the inset of the corner
GRAY_LINE_COLOR = "#9C9C9C"
BAND_RESAMPLES = 300  # bootstrap curves that a band is the quantiles of

# From labels, scores and `sample_weight` to x, increasing, and y; as scikit-learn's curves.
CurveFunction = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


class OperatingPoint(NamedTuple):
    """What a threshold gives."""

    title: str
    sensitivity: float | None
    specificity: float | None
    precision: float | None = None


PUBLISHED_POINT_SOURCE = "idc"
PUBLISHED_POINT = OperatingPoint("Cruz-Roa et al. 2014", 0.7960, 0.8886, 0.6540)


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
    """Return recall, increasing, precision and thresholds of a precision-recall curve; arguments as scikit-learn's."""
    precision, recall, thresholds = precision_recall_curve(labels, scores, sample_weight=sample_weight)
    has_recall = recall > 0  # without a true positive, precision is 0 or, by convention, 1
    return recall[has_recall][::-1], precision[has_recall][::-1], thresholds


def highlighted(run: Run) -> list[str]:
    """Return the NUM_HIGHLIGHTED classifiers that curves show in color; the others are gray.

    They are the proposed one, Table 1's network if the run has it, and the best of the rest by test ROC AUC.
    """
    first, *compared_names = run.classifier_names
    colored = [first, *(name for name in compared_names if name == "resnet_table1")]
    by_auc = sorted(compared_names, key=lambda name: -(run.metrics[name]["sets"]["test"]["roc_auc"]["value"] or 0))
    return (colored + [name for name in by_auc if name not in colored])[:NUM_HIGHLIGHTED]


def _draw_lines(run: Run, axes, curves: dict[str, tuple[np.ndarray, np.ndarray]], labels: dict[str, str]) -> None:
    """Draw each classifier's (x, y) of `curves`; those not highlighted are gray and share one entry of the legend."""
    colored_names = highlighted(run)
    gray_names = [name for name in curves if name not in colored_names]
    for order, name in enumerate(colored_names):
        axes.plot(
            *curves[name], label=labels[name], color=CLASSIFIER_COLORS[name], lw=1.8, zorder=4 if not order else 3
        )
    for name in gray_names:
        label = count_text(len(gray_names), "other classifier") if name == gray_names[0] else None
        axes.plot(*curves[name], label=label, color=GRAY_LINE_COLOR, lw=0.9, zorder=2)


def reliability(run: Run) -> ReportFigure:
    """Draw the observed share of the second class against the probability, as predicted and after calibration.

    There is a panel for each highlighted classifier. The ten bins are those of the calibration error, equally wide;
    below is how many patches each has.
    """
    test, names = run.test_predictions, highlighted(run)
    figure, grid = plt.subplots(
        2, len(names), figsize=(3.1 * len(names) + 0.3, 4.3), sharex=True, sharey="row", height_ratios=(4, 1),
        squeeze=False,
    )  # fmt: skip
    rows, kinds = [], (("As it is", False, "--"), ("After scaling", True, "-"))
    for column, name in enumerate(names):
        axes, bars = grid[:, column]
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
        for kind, (title, is_calibrated, style) in enumerate(kinds):
            by_seed = [
                run.calibrated_probabilities(name, seed, test) if is_calibrated else scores
                for seed, scores in run.probabilities_by_seed(name, test).items()
            ]
            labels, scores = np.tile(test["label"], len(by_seed)), np.concatenate(by_seed)
            points = plot_reliability(axes, labels, scores, color=CLASSIFIER_COLORS[name], ls=style, label=title)
            for point in points:
                point["patches"] /= len(by_seed)
            offset = 0.023 * (2 * kind - 1)
            bars.bar([point["bin"] + 0.05 + offset for point in points], [point["patches"] for point in points],
                     width=0.044, color=CLASSIFIER_COLORS[name], alpha=1 if is_calibrated else 0.4)  # fmt: skip
            rows += [{"probabilities": title, "classifier": name, **point} for point in points]
        test_metrics = run.metrics[name]["sets"]["test"]
        errors = [format_estimate(test_metrics[metric]) for metric in ("ece", "ece_calibrated")]
        axes.set_title(f"{CLASSIFIER_NAMES[name]}\nerror {errors[0]},\nscaled {errors[1]}", fontsize=8.5)
        bars.set(xlabel=f"Probability of {class_noun(run.class_names[1])}", yscale="log")
    grid[0, 0].set_ylabel(f"Observed share {run.class_texts[1]}")
    grid[1, 0].set_ylabel("Patches")
    grid[0, 0].legend(loc="upper left", fontsize=8)
    sns.despine(figure)
    resampling = "; resampling raises an error, so that a small one may lie below its interval"
    resampling = resampling if run.has_intervals else ""
    caption = (
        "Reliability in the ten equally wide bins of the calibration error, as the networks say (dashed) and after "
        f"temperature and shift from the validation patients (solid): {run.role_summary('test')}. Dotted: perfect. "
        f"Below: patches in each bin, faint before scaling, mean over seeds. Errors have {run.interval_text()}"
        f"{resampling}."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Reliability", caption)


def plot_reliability(axes: plt.Axes, is_class, scores: np.ndarray, **line) -> list[dict[str, float]]:
    """Draw the observed share of a class against its probability, in the equally wide bins of the calibration error.

    Args:
        is_class: (n,). Whether a patch is of the class.
        scores: (n,). Probabilities of the class.
        line: Arguments of `Axes.plot`.

    Returns:
        {bin, predicted, observed, patches} for each bin that has patches; `bin` is its lower edge.
    """
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = np.flatnonzero(counts)
    predicted, observed = (
        np.bincount(bins, weights=values, minlength=CALIBRATION_BINS)[filled] / counts[filled]
        for values in (scores, np.asarray(is_class, float))
    )
    axes.plot(predicted, observed, marker="o", ms=3.5, **line)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return [
        {"bin": index / CALIBRATION_BINS, "predicted": p, "observed": o, "patches": int(count)}
        for index, p, o, count in zip(filled, predicted, observed, counts[filled], strict=True)
    ]


def decision_curve(run: Run) -> ReportFigure:
    """Draw the net benefit of acting on the calibrated probability, on all patches and on none (Vickers 2006).

    It is the share of true calls minus the share of false calls times the odds of the threshold.
    """
    test = run.test_predictions
    is_second, second = test["label"].to_numpy() == 1, run.class_texts[1]
    thresholds = np.linspace(0.01, 0.9, 90)
    odds = thresholds / (1 - thresholds)
    share = is_second.mean()
    benefit_of_all = share - (1 - share) * odds
    figure, axes = plt.subplots(figsize=(5.2, 5.0))
    axes.plot(thresholds, benefit_of_all, color=MUTED, ls="--", lw=1, label=f"Call every patch {second}")
    axes.axhline(0, color=MUTED, ls=":", lw=1, label="Call none")
    curves = {"all": benefit_of_all}
    for name in run.classifier_names:
        benefits = []
        for seed in run.seeds(name):
            called = run.calibrated_probabilities(name, seed, test)[:, None] >= thresholds
            benefits.append((called & is_second[:, None]).mean(0) - (called & ~is_second[:, None]).mean(0) * odds)
        curves[name] = np.mean(benefits, axis=0)
    _draw_lines(run, axes, {name: (thresholds, curves[name]) for name in run.classifier_names}, CLASSIFIER_NAMES)
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
    figure, axes = plt.subplots(figsize=(4.8, 5.4))
    x, curves = np.linspace(0, 1, CURVE_POINTS), {}
    for name in run.classifier_names:
        y = mean_curve(curve, test["label"], list(run.probabilities_by_seed(name, test).values()), x)
        curves[name] = x, y
    tables = [pd.DataFrame({"classifier": name, labels[0]: x, labels[1]: y}) for name, (_, y) in curves.items()]
    legend_texts = {
        name: f"{CLASSIFIER_NAMES[name]}: {format_estimate(run.metrics[name]['sets']['test'][metric])}"
        for name in curves
    }
    first = run.classifier_names[0]
    low, high = _bootstrap_band(run, test, first, curve, x)
    tables[0], has_band = tables[0].assign(low=low, high=high), bool(np.isfinite(low).any())
    panels = [axes]
    lowest = min(run.metrics[name]["sets"]["test"][metric]["value"] or 0 for name in highlighted(run))
    if metric == "roc_auc" and lowest >= MIN_INSET_AUC:
        panels.append(axes.inset_axes([0.42, 0.1, 0.56, 0.5], xlim=(0, 0.3), ylim=(0.7, 1)))
    for panel in panels:
        _draw_lines(run, panel, curves, legend_texts)
        if has_band:
            panel.fill_between(x, low, high, color=CLASSIFIER_COLORS[first], alpha=0.18, lw=0, zorder=0)
        _draw_points(run, panel, metric)
    for panel in panels[1:]:
        panel.tick_params(labelsize=7)
        panel.set_title("The upper left corner", fontsize=8, fontweight="normal")
    if metric == "roc_auc":
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
    else:
        axes.axhline(test["label"].mean(), ls=":", color=MUTED)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.01, 1.01), ylim=(0, 1.01))
    legend_below(figure, METRIC_NAMES[metric])
    sns.despine(figure)
    if run.data_source == PUBLISHED_POINT_SOURCE:
        caption += f" Cross: {PUBLISHED_POINT.title}, by patients, other test patches."
    caption += f" Circle: {CLASSIFIER_NAMES[first]} at its threshold from the validation patients."
    caption = (
        f"{caption} {run.role_summary('test')}; each line the mean of {run.seeds_text()} at equal "
        f"{labels[0].lower()}; {_intervals_and_band_text(run, has_band)}."
    )
    return ReportFigure(figure, pd.concat(tables), title, caption)


def _intervals_and_band_text(run: Run, has_band: bool) -> str:
    """Return for captions what the intervals are, with their resamples, and what the band is, if there is one."""
    text, samples = run.interval_text(), run.experiment.evaluate.bootstrap_samples
    if run.has_intervals:
        text += f", {samples:,} resamples"
    if has_band:
        title, resamples = CLASSIFIER_NAMES[run.classifier_names[0]], min(BAND_RESAMPLES, samples)
        text += f"; band of {title}: the same, {resamples} resamples, each place by itself"
    return text


def _draw_points(run: Run, axes: plt.Axes, metric: str) -> None:
    """Draw the first classifier's operating point and, on the data set that it was published for, PUBLISHED_POINT.

    Args:
        metric: `roc_auc` for the axes of the ROC curve, `pr_auc` for recall and precision.
    """
    first, test = run.classifier_names[0], run.role_counts("test")
    scores = run.metrics[first]["sets"]["test"]
    proposed = OperatingPoint(CLASSIFIER_NAMES[first], scores["sensitivity"]["value"], scores["specificity"]["value"])
    points = [(proposed, "o", CLASSIFIER_COLORS[first])]
    if run.data_source == PUBLISHED_POINT_SOURCE:
        points.append((PUBLISHED_POINT, "x", INK))
    share = test["positives"] / test["patches"]
    for point, marker, color in points:
        if point.sensitivity is None or point.specificity is None:
            continue
        # Share of all test patches that are called positive; precision follows, unless it was published.
        called = share * point.sensitivity + (1 - share) * (1 - point.specificity)
        precision = point.precision or (share * point.sensitivity / called if called else np.nan)
        place = (1 - point.specificity, point.sensitivity) if metric == "roc_auc" else (point.sensitivity, precision)
        axes.plot(*place, marker, color=color, ms=6, mfc="none", mew=1.6, zorder=5)


def mean_curve(curve: CurveFunction, labels, scores: list[np.ndarray], x: np.ndarray, weights=None) -> np.ndarray:
    """Return the heights of a curve at `x`, means over the seeds, (len(x),).

    Args:
        labels: Whether each patch is of the class, (n,).
        scores: Probabilities of the class, (n,), by each seed.
        x: Increasing.
        weights: Of the patches, (n,). Defaults to `None`: equal ones.
    """
    curves = [curve(labels, of_seed, sample_weight=weights)[:2] for of_seed in scores]
    return np.mean([np.interp(x, *points) for points in curves], axis=0)


def _bootstrap_band(run: Run, test: pd.DataFrame, name: str, curve: CurveFunction, x: np.ndarray) -> np.ndarray:
    """Return the confidence limits of a classifier's mean curve over patients and trainings: (2, len(x)).

    Args:
        test: Predictions of the test patches.
        x: Increasing places on the x axis, where the limits are computed.

    Returns:
        The lower limits, then the upper ones; NaN with too few patients, or if no resample has both classes.
    """
    if not run.has_intervals:
        return np.full((2, len(x)), np.nan)
    settings, scores_by_seed = run.experiment.evaluate, list(run.probabilities_by_seed(name, test).values())
    labels = test["label"].to_numpy()
    weights = patient_weights(test["patient"].to_numpy(), settings.bootstrap_samples, run.experiment.seed)
    # A resample's weights say how often each patch is drawn. A curve needs patches of both classes.
    has_both_classes = [np.ptp(labels[resample > 0]) > 0 for resample in weights]
    weights = weights[has_both_classes][:BAND_RESAMPLES]
    if not len(weights):
        return np.full((2, len(x)), np.nan)
    curves = []  # (1 + resamples, trainings, len(x)), first of the observed patches
    for counts in (np.ones_like(weights[0]), *weights):
        is_drawn = counts > 0
        curves.append([
            mean_curve(curve, labels[is_drawn], [scores[is_drawn]], x, counts[is_drawn]) for scores in scores_by_seed
        ])  # fmt: skip
    samples = [
        resampled_means(of_x.T, test["patient"].nunique(), settings.confidence_level, (0, 1))
        for of_x in np.moveaxis(np.array(curves), 2, 0)
    ]
    tail = (1 - settings.confidence_level) / 2
    return np.quantile(samples, (tail, 1 - tail), axis=1)
