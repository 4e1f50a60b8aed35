"""Figures of the classifiers: training, confusion, patients, comparisons, the ablation. Curves: `classifier_curves`."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.metrics import confusion_matrix

from bcgan.classifiers import CLASSIFIERS
from bcgan.evaluate.intervals import format_estimate
from bcgan.evaluate.metrics import call
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_COLORS,
    CLASSIFIER_NAMES,
    INK,
    MUTED,
    SHORT_NAMES,
    ReportFigure,
    blank_grid,
    difference_title,
    draw_estimate,
    format_signed,
    panel_grid,
)
from bcgan.report.wording import count_text, format_mean_count, join_words, percent

YOUDEN, MOST_PROBABLE = "youden", "most_probable"
MIN_CELL_IN, MAX_WIDTH_IN = 0.5, 10  # of confusion matrices
LABEL_WIDTH = 52  # of the labels of a forest, in characters
COMPONENTS, CLASSIFIERS_COMPARED = "Contribution of each component", "Each classifier"
FOREST_METRICS = ("roc_auc", "balanced_accuracy")
MAX_COLUMNS = 5  # of panels, one for each classifier
MAX_COUNTED_CLASSES = 4  # whose cells of the confusion matrix have room for two lines


def accuracy_loss(run: Run) -> ReportFigure:
    """Draw accuracy and loss over the epochs, training (dashed) and validation (solid): the paper's Fig. 10."""
    names, metrics = run.trained_names, ("accuracy", "loss")
    columns = min(len(names), MAX_COLUMNS)
    bands = -(-len(names) // columns)  # each has a row of accuracies and one of losses
    figure, grid = blank_grid(2 * bands, columns, (2.4 * columns + 0.6, 4.6 * bands))
    axes_of: dict[str, list] = {metric: [] for metric in metrics}
    for number, name in enumerate(names):
        mean = run.training_logs[run.training_logs["classifier"] == name].groupby("epoch").mean(numeric_only=True)
        band, column = divmod(number, columns)
        for metric, axes in zip(metrics, grid[2 * band : 2 * band + 2, column], strict=True):
            axes.set_axis_on()
            lines = {"training": mean[metric], "validation": mean[f"validation_{metric}"]}
            for (label, values), style in zip(lines.items(), ("--", "o-"), strict=True):
                axes.plot(mean.index + 1, values, style, ms=3, color=CLASSIFIER_COLORS[name], label=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes_of[metric].append(axes)
        axes_of["accuracy"][-1].set_title(SHORT_NAMES[name], fontsize=10)
        axes_of["loss"][-1].set_xlabel("Epoch")
    titles = {"accuracy": "Accuracy" if run.is_multiclass else "Accuracy at 0.5", "loss": "Loss (nats)"}
    for metric, title in titles.items():
        limits = np.array([axes.get_ylim() for axes in axes_of[metric]])
        for number, axes in enumerate(axes_of[metric]):
            axes.set(ylim=(limits.min(), limits.max()), ylabel="" if number % columns else title)
            axes.tick_params(labelleft=number % columns == 0)
    figure.legend(*axes_of["loss"][0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    sns.despine(figure)
    settings = run.experiment.classify
    caption = (
        f"Accuracy and loss by epoch, mean over {run.seeds_text()}. Training (dashed): {run.role_summary('train')}, "
        f"augmented, weights of that step, loss {settings.loss.replace('_', ' ')}; validation (solid): averaged "
        f"weights, plain cross-entropy, {run.role_summary('validation')}."
    )
    frozen = [CLASSIFIER_NAMES[name] for name in names if CLASSIFIERS[name].is_frozen]
    if frozen:
        caption += f" {join_words(frozen)}: after each epoch a regression is fitted to the patches of all epochs."
    return ReportFigure(figure, run.training_logs, "Accuracy and loss", caption)


def confusion(run: Run) -> ReportFigure:
    """Draw confusion matrices on test patches, means over the seeds.

    Of two classes the proposed classifier has one for each rule that selects a threshold on validation patches. Of more
    classes the most probable one is called, and every classifier has one.
    """
    test, num_classes = run.test_predictions, len(run.class_names)
    panels = (
        [(name, MOST_PROBABLE) for name in run.classifier_names] if run.is_multiclass
        else [(run.classifier_names[0], rule) for rule in tables.RULES]
    )  # fmt: skip
    side = max(2.3, MIN_CELL_IN * num_classes + 0.5)
    num_columns = max(1, min(len(panels), int(MAX_WIDTH_IN // side)))
    figure, grid = panel_grid(len(panels), num_columns, side * num_columns + 0.5, side + 0.55)
    rows = []
    for axes, (name, rule) in zip(grid.flat, panels, strict=False):
        thresholds = None if run.is_multiclass else run.thresholds_by_seed(name, rule)
        counts = _mean_confusion(run, name, test, thresholds)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # 0 of a class without a test patch
        _draw_confusion_matrix(axes, run.class_texts, counts, shares, has_row_labels=axes in grid[:, 0])
        panel, title = {"classifier": name}, CLASSIFIER_NAMES[name]
        if thresholds is not None:
            threshold = np.mean(list(thresholds.values()))
            panel |= {"rule": rule, "threshold": threshold}
            title = f"{tables.RULES[rule]}, {threshold:.2f}"
        axes.set_title(title, fontsize=8.5)
        for truth, called in np.ndindex(num_classes, num_classes):
            rows.append({
                **panel, "true": run.class_names[truth], "called": run.class_names[called],
                "patches": counts[truth, called], "share": shares[truth, called],
            })  # fmt: skip
    for axes in grid[:, 0]:
        axes.set_ylabel("True")
    return ReportFigure(figure, pd.DataFrame(rows), "Confusion matrices", _confusion_caption(run))


def _confusion_caption(run: Run) -> str:
    """Return the caption of the confusion matrices."""
    summary = run.role_summary("test")
    if run.is_multiclass:
        return (
            f"Confusion of {summary}; in each cell the share of the true class and, with few classes, the patches "
            f"(mean over {run.seeds_text()}). The most probable class is called."
        )
    name = run.classifier_names[0]
    return (
        f"Confusion of {summary} by {CLASSIFIER_NAMES[name]}; share of the true class, and patches, which are means "
        f"over {run.seeds_text(name)} and may have a decimal. The thresholds give validation patients the largest "
        "Youden index, a sensitivity of at least 0.95, the largest F1 and the largest accuracy. Those of the other "
        "classifiers are in the table of operating points."
    )


def _mean_confusion(run: Run, name: str, test: pd.DataFrame, thresholds: dict[int, float] | None) -> np.ndarray:
    """Return numbers of patches by true and called class, float, (classes, classes), means over a classifier's seeds.

    Args:
        thresholds: By seed, from which on a patch is called the second of two classes; `None` with more classes.
    """
    matrices, labels = [], range(len(run.class_names))
    for seed, scores in run.probabilities_by_seed(name, test).items():
        called = call(scores, thresholds[seed] if thresholds else None)
        matrices.append(confusion_matrix(test["label"], called, labels=labels))
    return np.mean(matrices, axis=0)


def _draw_confusion_matrix(
    axes: plt.Axes, class_texts: list[str], counts: np.ndarray, shares: np.ndarray, has_row_labels: bool
) -> None:
    """Draw a confusion matrix with the share of the true class and the number of patches in each cell.

    With more than MAX_COUNTED_CLASSES classes the cells have the share alone.

    Args:
        class_texts: Names of the classes, in the order of their labels.
        counts, shares: Patches, and fractions of the row; float, (classes, classes), rows true, columns predicted.
        has_row_labels: Whether to write the names of the true classes.
    """
    has_counts = len(class_texts) <= MAX_COUNTED_CLASSES
    texts = [
        f"{share:.0%}\n{format_mean_count(count)}" if has_counts else f"{share:.0%}"
        for share, count in zip(shares.flat, counts.flat, strict=True)
    ]
    sns.heatmap(
        shares, annot=np.array(texts).reshape(shares.shape), fmt="", annot_kws={"color": INK} | (
            {} if has_counts else {"fontsize": 7.5}
        ), cmap="Greys", vmin=0, vmax=2, cbar=False, ax=axes, square=True, xticklabels=class_texts,
        yticklabels=class_texts if has_row_labels else False, linewidths=1,
    )  # fmt: skip
    if len(class_texts) > 2:
        axes.tick_params(axis="x", rotation=90, labelsize=8)
        axes.tick_params(axis="y", rotation=0, labelsize=8)
    axes.set_xlabel("Called")
    axes.tick_params(length=0)


def comparisons(run: Run) -> ReportFigure:
    """Draw differences with intervals as a forest plot.

    Above: what each component adds to a network. Below: every classifier against the reference of the first comparison.
    """
    names, reference = CLASSIFIER_NAMES, run.comparisons[0]["reference"]
    differences = tables.differences_by_pair(run)
    components = tables.list_components(run)
    rows = [(COMPONENTS, _component_text(component), MUTED, component.differences) for component in components]
    rows += [
        (CLASSIFIERS_COMPARED, names[name], CLASSIFIER_COLORS[name], differences[name, reference])
        for name in run.classifier_names if (name, reference) in differences and name != reference
    ]  # fmt: skip
    heights = _row_heights([group for group, *_ in rows])
    figure, grid = plt.subplots(
        1, len(FOREST_METRICS), figsize=(9.6, 0.34 * max(heights) + 1.3), sharey=True, squeeze=False
    )
    numbers = []
    for axes, metric in zip(grid[0], FOREST_METRICS, strict=True):
        for height, (group, title, color, by_metric) in zip(heights, rows, strict=True):
            difference = by_metric[metric]
            numbers.append({"group": group, "row": title, "metric": metric, **{
                key: difference[key] for key in ("value", "low", "high", "p")
            }})  # fmt: skip
            draw_estimate(axes, difference, height, color)
            text = format_signed(difference["value"]) if difference["value"] is not None else "not defined"
            axes.annotate(text, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        axes.axvline(0, color=MUTED, ls=":", lw=1)
        axes.set_xlabel(difference_title(metric))
        axes.locator_params(axis="x", nbins=4)
    grid[0, 0].set_yticks(heights, [textwrap.fill(title, LABEL_WIDTH) for _, title, *_ in rows], fontsize=8)
    grid[0, 0].set_ylim(max(heights) + 0.7, -0.2)
    for group in dict.fromkeys(group for group, *_ in rows):
        top = min(height for height, row in zip(heights, rows, strict=True) if row[0] == group) - 0.9
        title = group if group == COMPONENTS else f"{group} against {SHORT_NAMES[reference]}"
        grid[0, 0].annotate(title, (0, top), xycoords=("axes fraction", "data"), fontsize=9, fontweight="bold",
                            va="center", bbox={"facecolor": "#ffffff", "edgecolor": "none", "pad": 1},
                            ).set_in_layout(False)  # fmt: skip
    sns.despine(figure)
    is_marked = any(component.other_settings for component in components)
    mark = "; *: the two also differ in other settings, which the table of components names" if is_marked else ""
    caption = (
        f"Differences on the same patches, right of the line: better; an interval that contains 0 shows no effect. "
        f"Above: what each component adds to a network{mark}. Below: each classifier against {names[reference]}. "
        f"{run.role_summary('test')}, unless a row says otherwise; means over the seeds, {run.interval_text()}"
        f"{', the same patients for both' if run.has_intervals else ''}."
    )
    return ReportFigure(figure, pd.DataFrame(numbers), "Differences", caption)


def _component_text(component: tables.Component) -> str:
    """Return the label of a component's row, with a star if other settings differ as well."""
    star = " *" if component.other_settings else ""
    patients = f" ({component.role} patients)" if component.role != "test" else ""
    return f"{component.title}, to {component.base}{star}{patients}"


def _row_heights(groups: list[str]) -> list[float]:
    """Return the position of each row from the top, with more room above the first row of a group, for a title."""
    heights, position, previous = [], 0.0, None
    for group in groups:
        position += 1 if group == previous else 1.6 if previous else 1
        heights.append(position)
        previous = group
    return heights


def ablation(run: Run) -> ReportFigure:
    """Draw the difference of every variant of the ablation from the unchanged experiment, on validation patients."""
    rows = [
        {key: variant[key] for key in ("factor", "variant", "seeds")} | {"metric": metric, **difference}
        for variant in run.ablation["variants"]
        for metric, difference in (variant["differences"] or {}).items()
    ]
    table = pd.DataFrame(rows, columns=["factor", "variant", "seeds", "metric", "value", "low", "high", "p"])
    labels = list(dict.fromkeys(zip(table["factor"], table["variant"], strict=True)))
    metrics = ("roc_auc", "balanced_accuracy")
    figure, grid = plt.subplots(1, len(metrics), figsize=(3.2 * len(metrics) + 2, 0.3 * len(labels) + 1.3), sharey=True)
    color = CLASSIFIER_COLORS[run.ablation["model"]]
    for axes, metric in zip(grid, metrics, strict=True):
        metric_rows = [row for row in rows if row["metric"] == metric]
        for height, row in enumerate(metric_rows):
            draw_estimate(axes, row, height, color, ms=4.5)
        axes.axvline(0, color=MUTED, ls=":", lw=1)
        axes.set_xlabel(difference_title(metric))
        axes.locator_params(axis="x", nbins=5)
    grid[0].set_yticks(range(len(labels)), [f"{factor}: {variant}" for factor, variant in labels])
    grid[0].invert_yaxis()
    sns.despine(figure)
    baseline = run.ablation["variants"][0]
    exceptions = ", ".join(
        f"{row['seeds']} for {row['factor']}: {row['variant']}"
        for row in metric_rows
        if row["seeds"] != baseline["seeds"]
    )
    exceptions = f" ({exceptions})" if exceptions else ""
    by_chance = f" Of {len(labels)} choices one in twenty looks like an effect by chance." if len(labels) > 9 else ""
    widened = ", widened by what trainings vary" if baseline["seeds"] > 1 else ", of one training each"
    caption = (
        f"One choice changed at a time, {CLASSIFIER_NAMES[run.ablation['model']]}, "
        f"{count_text(run.ablation['epochs'], 'epoch')}, {count_text(baseline['seeds'], 'seed')}{exceptions}: "
        "difference from the same training as it is (ROC AUC "
        f"{format_estimate(baseline['figures']['roc_auc'])}), right of the line: better. "
        f"{run.role_summary('validation')}; {percent(run.experiment.evaluate.confidence_level)} intervals by a "
        f"bootstrap of patients{widened}, the same for both.{by_chance} The epoch and the "
        "thresholds of each training come from the same patients."
    )
    return ReportFigure(figure, table, "Ablation", caption)
