"""Figures of the test patients: accuracy patient by patient, and how much of the tissue is of a class."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.classes import capitalize
from bcgan.evaluate import patients as by_patient
from bcgan.evaluate.intervals import format_estimate
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_COLORS,
    CLASSIFIER_NAMES,
    MUTED,
    SHORT_NAMES,
    ReportFigure,
    format_signed,
    panel_grid,
)

MAX_DRAWN_PATIENTS = 300  # of a heat map whose cells are drawn one by one; of more it is one picture
MAX_NAMED_PATIENTS = 60  # more names do not fit below a heat map
LOW_ACCURACY_COLOR = "#A03A4A"


def per_patient(run: Run) -> ReportFigure:
    """Draw a heat map of the accuracy over each test patient's patches, a row for each classifier.

    The table has the accuracy by classifier, seed and patient, and the number of patches.
    """
    test = run.test_predictions
    rows = []
    for name in run.classifier_names:
        for seed, called in run.called_by_seed(name, test).items():
            by_patient_table = (called == test["label"]).groupby(test["patient"]).agg(["mean", "size"])
            rows += [(name, seed, patient, mean, size) for patient, mean, size in by_patient_table.itertuples()]
    table = pd.DataFrame(rows, columns=["classifier", "seed", "patient", "accuracy", "patches"])
    mean = pd.DataFrame({name: run.patient_accuracies(name) for name in run.classifier_names}).T[ordered_patients(run)]
    has_names = mean.shape[1] <= MAX_NAMED_PATIENTS
    figure, axes = plt.subplots(figsize=(10, 0.24 * len(mean) + (1.6 if has_names else 1.1)))
    sns.heatmap(
        mean, ax=axes, cmap=sns.light_palette(LOW_ACCURACY_COLOR, reverse=True, as_cmap=True), vmax=1,
        vmin=min(0.5, mean.to_numpy().min()), xticklabels=False,
        yticklabels=[SHORT_NAMES[name] for name in mean.index], linewidths=0.4,
        rasterized=mean.shape[1] > MAX_DRAWN_PATIENTS,
        cbar_kws={"label": "Accuracy", "pad": 0.01, "aspect": 12},
    )  # fmt: skip
    if has_names:  # not by seaborn: a patient's name may contain dollar signs
        axes.set_xticks(np.arange(mean.shape[1]) + 0.5, mean.columns, parse_math=False)
    axes.tick_params(length=0, labelsize=8)
    axes.tick_params(axis="x", rotation=90, labelsize=7)
    axes.set(ylabel="", xlabel="Test patient" if has_names else f"{mean.shape[1]} test patients")
    at_threshold = "" if run.is_multiclass else " at the validation threshold"
    first = mean.loc[run.classifier_names[0]]
    caption = (
        f"Accuracy{at_threshold} over each patient's patches, a column a patient ({run.role_summary('test')}), from "
        f"the one that {CLASSIFIER_NAMES[first.name]} calls best to the one that it calls worst. Its mean over "
        f"patients is {first.mean():.3f}, from {first.min():.3f} to {first.max():.3f}. The paper states 95.0 to 98.8 % "
        "without a protocol."
    )
    return ReportFigure(figure, table, "Patient by patient", caption)


def ordered_patients(run: Run) -> list[str]:
    """Return the test patients in the order of the heat map: the proposed classifier's best first."""
    accuracies = run.patient_accuracies(run.classifier_names[0])
    return accuracies.sort_values(ascending=False, kind="stable").index.tolist()


def patient_shares(run: Run) -> ReportFigure:
    """Draw the fraction of each test patient's patches that is of a class, estimated against annotated.

    Of two classes the second is drawn, of more a panel each.
    """
    name = "ensemble" if "ensemble" in run.metrics else run.classifier_names[0]
    tables_by_label = {label: _patient_fractions(run, name, label) for label in run.contrasted_labels}
    num_columns = min(len(tables_by_label), 4)
    size = (2.5 * num_columns, 2.9) if run.is_multiclass else (4.8, 4.4)
    figure, grid = panel_grid(len(tables_by_label), num_columns, *size)
    for axes, (label, table) in zip(grid.flat, tables_by_label.items(), strict=False):
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED)
        axes.scatter(
            table["annotated"], table["estimated"], s=table["patches"].clip(10, 120), alpha=0.6, lw=0,
            color=run.class_colors[run.class_names[label]] if run.is_multiclass else CLASSIFIER_COLORS[name],
        )  # fmt: skip
        low, high = _limits_of_agreement(table)
        for offset, width in ((low, 0.8), ((low + high) / 2, 1.2), (high, 0.8)):
            axes.plot([0, 1], [offset, 1 + offset], ls="--", lw=width, color=MUTED)
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
    agreement = "Dashed: mean difference and 1.96 standard deviations to either side (limits of agreement"
    if not run.is_multiclass:
        low, high = _limits_of_agreement(table)
        agreement += f": {format_signed(low)} to {format_signed(high)}"
    agreement += "). "
    caption = (
        f"A dot a test patient ({num_patients}), larger with more patches: the mean calibrated probability by "
        f"{CLASSIFIER_NAMES[name]}, against the share of the patient's patches that are annotated as {subject}. Mean "
        f"absolute error {format_estimate(test_metrics['patient_fraction_mae'])}, correlation "
        f"{format_estimate(test_metrics['patient_fraction_pearson'])}{over_classes}; "
        f"{run.interval_text()}. {agreement}{run.role_summary('test')}."
    )
    title = "How much of the tissue is of each class" if run.is_multiclass else (
        f"How much of the tissue is {run.class_texts[1]}"
    )  # fmt: skip
    return ReportFigure(figure, pd.concat(tables_by_label.values()), title, caption)


def _limits_of_agreement(table: pd.DataFrame) -> tuple[float, float]:
    """Return the mean of estimated minus annotated fractions, less and plus 1.96 standard deviations."""
    differences = table["estimated"] - table["annotated"]
    spread = 1.96 * differences.std() if len(differences) > 1 else 0.0
    return differences.mean() - spread, differences.mean() + spread


def _patient_fractions(run: Run, name: str, label: int) -> pd.DataFrame:
    """Return the annotated and the estimated fraction of a class for each test patient.

    Returns:
        A row for each patient: patient, patches, annotated, estimated (mean calibrated probability, mean over the
        seeds), and class if there are more than two.
    """
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
