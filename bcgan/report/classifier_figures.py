"""Figures of the classifiers: training, confusion, patients, comparisons, the ablation. Curves: `classifier_curves`."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.metrics import confusion_matrix

from bcgan.classes import capitalize
from bcgan.classifiers import CLASSIFIERS
from bcgan.evaluate import patients as by_patient
from bcgan.evaluate.intervals import format_estimate
from bcgan.evaluate.metrics import call, operating_points
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_COLORS,
    CLASSIFIER_NAMES,
    INK,
    MUTED,
    ReportFigure,
    difference_title,
    format_signed,
)
from bcgan.report.wording import join_words

YOUDEN, MOST_PROBABLE = "youden", "most_probable"
MIN_CELL_IN, MAX_WIDTH_IN = 0.5, 10  # of confusion matrices
MAX_COUNTED_CLASSES = 4  # whose cells of the confusion matrix have room for two lines


def accuracy_loss(run: Run) -> ReportFigure:
    """Draw accuracy and loss over the epochs, training (dashed) and validation (solid): the paper's Fig. 10."""
    names = run.trained_names
    figure, grid = plt.subplots(2, len(names), figsize=(2.6 * len(names) + 0.6, 4.8), sharey="row", squeeze=False)
    for column, name in enumerate(names):
        mean = run.training_logs[run.training_logs["classifier"] == name].groupby("epoch").mean(numeric_only=True)
        for row, metric in enumerate(("accuracy", "loss")):
            axes = grid[row, column]
            color = CLASSIFIER_COLORS[name]
            axes.plot(mean.index + 1, mean[metric], ls="--", color=color, label="training")
            axes.plot(mean.index + 1, mean[f"validation_{metric}"], "o-", ms=3, color=color, label="validation")
            axes.xaxis.get_major_locator().set_params(integer=True)
        grid[0, column].set_title(CLASSIFIER_NAMES[name], fontsize=10)
        grid[1, column].set_xlabel("Epoch")
    grid[0, 0].set_ylabel("Accuracy" if run.is_multiclass else "Accuracy at 0.5")
    grid[1, 0].set_ylabel("Loss (nats)")
    grid[0, 0].legend(loc="lower right")
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
    """Draw the confusion matrix of every classifier.

    Of two classes the proposed classifier has one for each rule that selects a threshold, and the others have one at
    Youden's. Of more classes the most probable one is called.
    """
    test, num_classes = run.test_predictions, len(run.class_names)
    first, *other_names = run.classifier_names
    first_rules, other_rule = ([MOST_PROBABLE], MOST_PROBABLE) if run.is_multiclass else (list(tables.RULES), YOUDEN)
    panels = [(first, rule) for rule in first_rules] + [(name, other_rule) for name in other_names]
    side = max(2.5, MIN_CELL_IN * num_classes + 0.5)
    num_columns = max(1, min(len(tables.RULES), int(MAX_WIDTH_IN // side)))
    num_rows = -(-len(panels) // num_columns)
    figure, grid = plt.subplots(
        num_rows, num_columns, figsize=(side * num_columns + 0.5, (side + 0.55) * num_rows), squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    rows = []
    for axes, (name, rule) in zip(grid.flat, panels, strict=False):
        thresholds = None if run.is_multiclass else _thresholds_by_seed(run, name, rule)
        counts = _mean_confusion(run, name, test, thresholds)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # 0 of a class without a test patch
        _draw_confusion_matrix(axes, run.class_texts, counts, shares, has_row_labels=axes in grid[:, 0])
        chosen, title = {"classifier": name}, CLASSIFIER_NAMES[name]
        if thresholds is not None:
            threshold = np.mean(list(thresholds.values()))
            chosen |= {"rule": rule, "threshold": threshold}
            title = f"{title}\n{tables.RULES[rule]}, {threshold:.2f}"
        axes.set_title(title, fontsize=8.5)
        for truth, called in np.ndindex(num_classes, num_classes):
            rows.append({
                **chosen, "true": run.class_names[truth], "called": run.class_names[called],
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
    return (
        f"Confusion of {summary}; share of the true class, and patches (mean over "
        f"{run.seeds_text()}). Upper row: {CLASSIFIER_NAMES[run.classifier_names[0]]} at the thresholds that give "
        "validation patients the largest Youden index, a sensitivity of at least 0.95, the largest F1 and the largest "
        "accuracy; then the others at that with the largest Youden index. Above each matrix its rule and threshold; "
        "other rules are in the table of operating points."
    )


def _mean_confusion(run: Run, name: str, test: pd.DataFrame, thresholds: dict[int, float] | None) -> np.ndarray:
    """Return the numbers of patches by true and called class, the mean over a classifier's seeds.

    Args:
        thresholds: By seed, from which on a patch is called the second of two classes; `None` with more classes.
    """
    matrices, labels = [], range(len(run.class_names))
    for seed, scores in run.probabilities_by_seed(name, test).items():
        called = call(scores, thresholds[seed] if thresholds else None)
        matrices.append(confusion_matrix(test["label"], called, labels=labels))
    return np.mean(matrices, axis=0)


def _draw_confusion_matrix(
    axes, class_texts: list[str], counts: np.ndarray, shares: np.ndarray, has_row_labels: bool
) -> None:
    """Draw a confusion matrix, (true, called), with the share of the true class and the patches in each cell.

    Of many classes the cells have the share alone.
    """
    has_counts = len(class_texts) <= MAX_COUNTED_CLASSES
    texts = [
        f"{share:.0%}\n{count:,.0f}" if has_counts else f"{share:.0%}"
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


def _thresholds_by_seed(run: Run, name: str, rule: str) -> dict[int, float]:
    """Return the threshold of every seed that a rule selects on the validation patients."""
    validation = run.probabilities[run.probabilities["role"] == "validation"]
    labels = validation["label"].to_numpy()
    return {
        seed: operating_points(labels, scores)[rule]
        for seed, scores in run.probabilities_by_seed(name, validation).items()
    }


def per_patient(run: Run) -> ReportFigure:
    """Draw the accuracy over each test patient's patches, a dot a patient."""
    test = run.test_predictions
    rows = []
    for name in run.classifier_names:
        for seed, called in run.called_by_seed(name, test).items():
            by_patient_table = (called == test["label"]).groupby(test["patient"]).agg(["mean", "size"])
            rows += [(name, seed, patient, mean, size) for patient, mean, size in by_patient_table.itertuples()]
    table = pd.DataFrame(rows, columns=["classifier", "seed", "patient", "accuracy", "patches"])
    mean = table.groupby(["classifier", "patient"], as_index=False)["accuracy"].mean()
    figure, axes = plt.subplots(figsize=(7, 0.6 * len(run.classifier_names) + 1.2))
    rng = np.random.default_rng(0)
    ranges = []
    for row, name in enumerate(run.classifier_names):
        values = mean.loc[mean["classifier"] == name, "accuracy"]
        ranges.append(f"{CLASSIFIER_NAMES[name]} {values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")
        heights = row + rng.uniform(-0.22, 0.22, len(values))
        axes.scatter(values, heights, s=22, alpha=0.6, lw=0, color=CLASSIFIER_COLORS[name])
    axes.invert_yaxis()
    axes.set_yticks(range(len(run.classifier_names)), [CLASSIFIER_NAMES[name] for name in run.classifier_names])
    axes.axvspan(0.95, 0.988, color=MUTED, alpha=0.2, lw=0)
    axes.set(
        xlabel="Accuracy over a patient's patches",
        ylabel="",
        xlim=(min(0.4, mean["accuracy"].min()) - 0.02, 1.02),
    )
    axes.annotate("stated by\nthe paper", (0.969, 1.01), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                  fontsize=8, color=MUTED)  # fmt: skip
    sns.despine(figure)
    at_threshold = "" if run.is_multiclass else " at the validation threshold"
    caption = (
        f"A dot a patient ({run.role_summary('test')}), up and down at random, so that fewer dots cover each other: "
        f"accuracy{at_threshold}. Mean (minimum to maximum): {', '.join(ranges)}. "
        "Grey: the 95.0 to 98.8 % that the paper states without a protocol."
    )
    return ReportFigure(figure, table, "Patient by patient", caption)


def patient_shares(run: Run) -> ReportFigure:
    """Draw the fraction of each test patient's patches that is of a class, estimated against annotated.

    Of two classes the second is drawn, of more a panel each.
    """
    name = "ensemble" if "ensemble" in run.metrics else run.classifier_names[0]
    tables_by_label = {label: _patient_fractions(run, name, label) for label in run.contrasted_labels}
    num_columns = min(len(tables_by_label), 4)
    num_rows = -(-len(tables_by_label) // num_columns)
    size = (2.5 * num_columns, 2.9 * num_rows) if run.is_multiclass else (4.8, 4.4)
    figure, grid = plt.subplots(num_rows, num_columns, figsize=size, squeeze=False)
    for axes in grid.flat[len(tables_by_label) :]:
        axes.set_visible(False)
    for axes, (label, table) in zip(grid.flat, tables_by_label.items(), strict=False):
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
        axes.scatter(
            table["annotated"], table["estimated"], s=table["patches"].clip(10, 120), alpha=0.6, lw=0,
            color=run.class_colors[run.class_names[label]] if run.is_multiclass else CLASSIFIER_COLORS[name],
        )  # fmt: skip
        limit = min(1.02, max(table["annotated"].max(), table["estimated"].max()) + 0.05)
        axes.set(xlim=(-0.02, limit), ylim=(-0.02, limit))
        axes.set_aspect("equal")
        if run.is_multiclass:
            axes.set_title(capitalize(run.class_texts[label]), fontsize=9.5)
    axis_title = "Share, annotated" if run.is_multiclass else f"Share of {run.class_texts[1]} patches, annotated"
    for axes in grid[:, 0]:
        axes.set_ylabel("Estimated")
    for axes in grid.flat:
        axes.set_xlabel(axis_title)
    sns.despine(figure)
    test_metrics = run.metrics[name]["sets"]["test"]
    num_patients, subject = len(table), "that class" if run.is_multiclass else run.class_texts[1]
    over_classes = ", means over the classes" if run.is_multiclass else ""
    caption = (
        f"A dot a test patient ({num_patients}), larger with more patches: the mean calibrated probability by "
        f"{CLASSIFIER_NAMES[name]}, against the share of the patient's patches that are annotated as {subject}. Mean "
        f"error {format_estimate(test_metrics['patient_fraction_mae'])}, correlation "
        f"{format_estimate(test_metrics['patient_fraction_pearson'])}{over_classes}; "
        f"intervals by {run.bootstrap_note()}. {run.role_summary('test')}."
    )
    title = "How much of the tissue is of each class" if run.is_multiclass else (
        f"How much of the tissue is {run.class_texts[1]}"
    )  # fmt: skip
    return ReportFigure(figure, pd.concat(tables_by_label.values()), title, caption)


def _patient_fractions(run: Run, name: str, label: int) -> pd.DataFrame:
    """Return the annotated and the estimated fraction of a class for each test patient."""
    test, estimates = run.test_predictions, []
    for seed in run.seeds(name):
        calibrated = run.calibrated_probabilities(name, seed, test)
        true, estimated, patches = by_patient.malignant_fractions(
            (test["label"] == label).to_numpy(int), calibrated[:, label] if run.is_multiclass else calibrated,
            test["patient"].to_numpy(),
        )  # fmt: skip
        estimates.append(estimated)
    return pd.DataFrame(({"class": run.class_names[label]} if run.is_multiclass else {}) | {
        "patient": np.unique(test["patient"]), "patches": patches, "annotated": true,
        "estimated": np.mean(estimates, axis=0),
    })  # fmt: skip


def comparisons(run: Run) -> ReportFigure:
    """Draw every classifier's differences from the first reference, on the same patches, with intervals."""
    table = pd.DataFrame(run.comparisons)
    table = table[table["reference"] == table["reference"].iloc[0]]
    compared = [name for name in run.classifier_names if name in set(table["classifier"])]
    metrics = list(table["metric"].unique())
    figure, grid = plt.subplots(1, len(metrics), figsize=(2.7 * len(metrics) + 1.5, 0.42 * len(compared) + 1.3),
                                sharey=True, squeeze=False)  # fmt: skip
    for axes, metric in zip(grid[0], metrics, strict=True):
        rows = table[table["metric"] == metric].set_index("classifier").loc[compared]
        for height, (name, row) in enumerate(rows.iterrows()):
            if pd.notna(row["low"]):
                axes.plot([row["low"], row["high"]], [height, height], color=CLASSIFIER_COLORS[name], lw=2)
            axes.plot(row["value"], height, "o", ms=5, color=CLASSIFIER_COLORS[name])
            text = format_signed(row["value"]) if pd.notna(row["value"]) else "not defined"
            axes.annotate(text, (1.01, height), xycoords=("axes fraction", "data"), va="center",
                          fontsize=8)  # fmt: skip
        axes.axvline(0, color=MUTED, ls=":", lw=1)
        axes.set_xlabel(difference_title(metric))
        axes.locator_params(axis="x", nbins=4)
    grid[0, 0].set_yticks(range(len(compared)), [CLASSIFIER_NAMES[name] for name in compared])
    grid[0, 0].invert_yaxis()
    sns.despine(figure)
    first = CLASSIFIER_NAMES[run.comparisons[0]["reference"]]
    caption = (
        f"Difference from {first}, right of the line: better. {run.role_summary('test')}; means over the "
        f"seeds, {run.experiment.evaluate.confidence_level:.0%} intervals by {run.bootstrap_note()}, the same patients "
        "for both."
    )
    return ReportFigure(figure, table, f"Against {first}", caption)


def ablation(run: Run) -> ReportFigure:
    """Draw the difference of every variant of the ablation from the experiment as it is, on validation patients."""
    rows = [
        {
            "factor": variant["factor"],
            "variant": variant["variant"],
            "seeds": variant["seeds"],
            "metric": metric,
            **difference,
        }
        for variant in run.ablation["variants"]
        if variant["differences"]
        for metric, difference in variant["differences"].items()
    ]
    table = pd.DataFrame(rows, columns=["factor", "variant", "seeds", "metric", "value", "low", "high", "p"])
    labels = list(dict.fromkeys(zip(table["factor"], table["variant"], strict=True)))
    metrics = ("roc_auc", "balanced_accuracy")
    figure, grid = plt.subplots(1, len(metrics), figsize=(3.2 * len(metrics) + 2, 0.3 * len(labels) + 1.3), sharey=True)
    color = CLASSIFIER_COLORS[run.ablation["model"]]
    for axes, metric in zip(grid, metrics, strict=True):
        metric_rows = table[table["metric"] == metric]
        for height, row in enumerate(metric_rows.itertuples()):
            if pd.notna(row.low):
                axes.plot([row.low, row.high], [height, height], color=color, lw=2)
            axes.plot(row.value, height, "o", ms=4.5, color=color)
        axes.axvline(0, color=MUTED, ls=":", lw=1)
        axes.set_xlabel(difference_title(metric))
        axes.locator_params(axis="x", nbins=5)
    grid[0].set_yticks(range(len(labels)), [f"{factor}: {variant}" for factor, variant in labels])
    grid[0].invert_yaxis()
    sns.despine(figure)
    baseline = run.ablation["variants"][0]
    exceptions = ", ".join(
        f"{row.seeds} for {row.factor}: {row.variant}"
        for row in metric_rows.itertuples()
        if row.seeds != baseline["seeds"]
    )
    exceptions = f" ({exceptions})" if exceptions else ""
    caption = (
        f"One choice changed at a time, {CLASSIFIER_NAMES[run.ablation['model']]}, {run.ablation['epochs']} epochs, "
        f"{baseline['seeds']} seeds{exceptions}: difference from the experiment as it is (ROC AUC "
        f"{format_estimate(baseline['figures']['roc_auc'])}), right of the line: better. "
        f"{run.role_summary('validation')}; {run.experiment.evaluate.confidence_level:.0%} intervals by a "
        f"bootstrap of seeds and patients, the same for both; with {len(labels)} choices one in twenty looks like an "
        "effect by chance. The epoch and the thresholds of each training come from the same patients."
    )
    return ReportFigure(figure, table, "Ablation", caption)
