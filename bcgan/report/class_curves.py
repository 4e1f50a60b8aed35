"""Curves of each class against the rest on the test patients, of more than two classes: ROC, precision-recall,
reliability.

The curves are the proposed classifier's; of the others the mean area over the classes is drawn.
"""

import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.metrics import roc_curve

from bcgan.classes import capitalize
from bcgan.evaluate.derived import get_probabilities
from bcgan.evaluate.intervals import format_estimate
from bcgan.report.classifier_curves import (
    CURVE_POINTS,
    CurveFunction,
    legend_below,
    mean_curve,
    plot_reliability,
    recall_precision_curve,
)
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_COLORS,
    CLASSIFIER_NAMES,
    METRIC_NAMES,
    MUTED,
    ReportFigure,
    draw_estimate,
    plt,
)  # fmt: skip


def roc(run: Run) -> ReportFigure:
    """Draw the ROC curve of each class against the rest, and every classifier's mean area."""
    return _draw_curves(
        run, "roc_auc", roc_curve, ("1 - specificity", "Sensitivity"), "ROC curves",
        "ROC curves of each class against the rest; dotted: chance.",
    )  # fmt: skip


def precision_recall(run: Run) -> ReportFigure:
    """Draw the precision-recall curve of each class against the rest, and every classifier's mean area."""
    return _draw_curves(
        run, "pr_auc", recall_precision_curve, ("Recall (sensitivity)", "Precision"), "Precision-recall curves",
        "Precision-recall curves of each class against the rest; dotted: chance, the share of the class.",
    )  # fmt: skip


def reliability(run: Run) -> ReportFigure:
    """Draw the observed share of each class against its probability, as predicted and after calibration.

    The ten bins are those of the calibration error, equally wide.
    """
    test, name = run.test_predictions, run.classifier_names[0]
    seeds = run.seeds(name)
    panels = {  # the patches of all seeds, as the error is a mean over them
        "As it is": np.concatenate([get_probabilities(test, name, seed) for seed in seeds]),
        "After scaling": np.concatenate([run.calibrated_probabilities(name, seed, test) for seed in seeds]),
    }
    labels = np.tile(test["label"], len(seeds))
    by_class, test_metrics = run.metrics[name]["by_class"]["test"], run.metrics[name]["sets"]["test"]
    figure, grid = plt.subplots(1, 2, figsize=(8.4, 5.4), sharey=True)
    rows = []
    for axes, (title, scores) in zip(grid, panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
        for label, (class_name, text) in enumerate(zip(run.class_names, run.class_texts, strict=True)):
            points = plot_reliability(
                axes, labels == label, scores[:, label], color=run.class_colors[class_name],
                label=f"{text}: {format_estimate(by_class[class_name]['ece'])}" if axes is grid[0] else None,
            )  # fmt: skip
            rows += [
                {"probabilities": title, "class": class_name, **point, "patches": point["patches"] / len(seeds)}
                for point in points
            ]
        axes.set(xlabel="Mean probability of the class", title=title)
    grid[0].set_ylabel("Observed share of the class")
    legend_below(figure, "Expected calibration error, after scaling")
    sns.despine(figure)
    means = (format_estimate(test_metrics[metric]) for metric in ("ece", "ece_calibrated"))
    caption = (
        f"Reliability of {CLASSIFIER_NAMES[name]}, each class against the rest, ten equally wide bins, as "
        f"predicted and after a temperature and a shift of each class from the validation patients: "
        f"{run.role_summary('test')}. Dotted: perfect. Mean calibration error over the classes {' and '.join(means)}, "
        f"over ten equally wide bins, with {run.interval_text()}"
        f"{'; resampling raises it, so that a small one may lie below its interval' if run.has_intervals else ''}. "
        "Other classifiers: in the table of calibration."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Reliability", caption)


def _draw_curves(
    run: Run, metric: str, curve: CurveFunction, labels: tuple[str, str], title: str, caption: str
) -> ReportFigure:
    """Draw the proposed classifier's mean curve of each class over its seeds, and every classifier's mean area.

    Args:
        metric: The area under the curve, roc_auc or pr_auc.
        curve: Computes a curve from labels and scores.
        labels: Of the x and y axes.
        caption: Its first sentence.

    Returns:
        The figure. Its table has the classifier, class, x and y of every curve, and the mean areas, in rows of class
        `mean`.
    """
    test, first = run.test_predictions, run.classifier_names[0]
    scores = run.probabilities_by_seed(first, test).values()
    figure, (axes, areas) = plt.subplots(1, 2, figsize=(9.2, 5.4), width_ratios=(1.25, 1))
    x, tables = np.linspace(0, 1, CURVE_POINTS), []
    for label, (name, text) in enumerate(zip(run.class_names, run.class_texts, strict=True)):
        is_class, color = test["label"] == label, run.class_colors[name]
        y = np.full(len(x), np.nan)  # of a class without a test patch
        if is_class.any():
            y = mean_curve(curve, is_class, [of_seed[:, label] for of_seed in scores], x)
        area = format_estimate(run.metrics[first]["by_class"]["test"][name][metric])
        axes.plot(x, y, color=color, lw=1.6, label=f"{text}: {area}")
        if metric == "pr_auc":
            axes.axhline(is_class.mean(), ls=":", lw=1, color=color)
        tables.append(pd.DataFrame({"classifier": first, "class": name, labels[0]: x, labels[1]: y}))
    if metric == "roc_auc":
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.01, 1.01), ylim=(0, 1.01))
    axes.set_title(CLASSIFIER_NAMES[first], fontsize=10)
    tables.append(_draw_mean_areas(run, areas, metric))
    legend_below(figure, f"{METRIC_NAMES[metric]} of each class against the rest")
    sns.despine(figure)
    resamples = f", {run.experiment.evaluate.bootstrap_samples:,} resamples" if run.has_intervals else ""
    caption = (
        f"{caption} {run.role_summary('test')}; each line the mean of {run.seeds_text()} at equal {labels[0].lower()}. "
        f"Right: every classifier's {METRIC_NAMES[metric]}, mean over the classes, dotted: chance. "
        f"{capitalize(run.interval_text())}{resamples}."
    )
    return ReportFigure(figure, pd.concat(tables, ignore_index=True), title, caption)


def _draw_mean_areas(run: Run, axes: plt.Axes, metric: str) -> pd.DataFrame:
    """Draw every classifier's mean area under the curves of the classes, with its interval.

    Args:
        metric: `roc_auc` or `pr_auc`.

    Returns:
        A row for each classifier: classifier, class (`mean`), value, low, high.
    """
    rows = []
    for row, name in enumerate(run.classifier_names):
        estimate, color = run.metrics[name]["sets"]["test"][metric], CLASSIFIER_COLORS[name]
        draw_estimate(axes, estimate, row, color)
        text = format_estimate(estimate | {"low": None})  # the value alone
        axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        rows.append({"classifier": name, "class": "mean", **{key: estimate[key] for key in ("value", "low", "high")}})
    axes.axvline(0.5 if metric == "roc_auc" else 1 / len(run.class_names), color=MUTED, ls=":", lw=1)
    axes.set_yticks(range(len(rows)), [CLASSIFIER_NAMES[name] for name in run.classifier_names])
    axes.set(xlabel=f"Mean {METRIC_NAMES[metric]}", ylim=(len(rows) - 0.4, -0.6))
    axes.set_title("All classifiers, mean over the classes", fontsize=10)
    return pd.DataFrame(rows)
