"""Figures of the first screen: every classifier's ROC AUC, and the patients and patches of every role."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_COLORS,
    INK,
    MUTED,
    ROLE_COLORS,
    ROLE_DEFINITIONS,
    ROLE_NAMES,
    SHORT_NAMES,
    ReportFigure,
    draw_estimate,
)

FOREST_ROLES = ("test", "unlisted")
CHANCE = 0.5  # ROC AUC
MIN_LABELLED_SHARE = 0.07  # of a bar; a smaller part has its number in the caption's table alone


def forest(run: Run) -> ReportFigure:
    """Draw the ROC AUC of every classifier with its interval, on test patients and on unlisted ones, best first.

    Unlisted patients are those of the archive who are on no patient list.
    """
    roles = [role for role in FOREST_ROLES if role in run.split["counts"]]
    estimates = {
        name: {role: run.metrics[name]["sets"][role]["roc_auc"] for role in roles} for name in run.classifier_names
    }
    names = sorted(estimates, key=lambda name: estimates[name]["test"]["value"] or 0)
    figure, axes = plt.subplots(figsize=(4.5, 0.235 * len(names) * (1.15 if len(roles) > 1 else 1) + 0.85))
    rows = []
    for row, name in enumerate(names):
        color = CLASSIFIER_COLORS[name]
        for role in roles:
            estimate, is_test = estimates[name][role], role == "test"
            # With two roles, one above and one below the classifier's row.
            y = row + (0.16 if is_test else -0.2) * (len(roles) - 1)
            rows.append({"classifier": name, "role": role, **estimate})
            sizes = {"lw": 2, "ms": 5, "mfc": color} if is_test else {"lw": 1, "ms": 4, "mfc": "#ffffff"}
            draw_estimate(axes, estimate, y, color, **sizes, mec=color, mew=1, zorder=3)
        value = estimates[name]["test"]["value"]
        weight = "bold" if name == run.classifier_names[0] else "normal"
        if value is not None:
            axes.annotate(f"{value:.3f}", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9,
                          fontweight=weight)  # fmt: skip
        axes.annotate(SHORT_NAMES[name], (-0.03, row), xycoords=("axes fraction", "data"), va="center", ha="right",
                      fontsize=9, fontweight=weight)  # fmt: skip
    axes.set(ylim=(-0.6, len(names) - 0.4), yticks=[], xlabel="ROC AUC")
    axes.grid(axis="x", color=MUTED, alpha=0.25, lw=0.6)
    axes.xaxis.set_major_locator(plt.MaxNLocator(5))
    if axes.get_xlim()[0] < CHANCE:
        axes.axvline(CHANCE, color=MUTED, ls=":", lw=1)
    if len(roles) > 1:
        handles = [
            plt.Line2D([], [], marker="o", color=INK, mfc=INK if role == "test" else "#ffffff", ms=5, lw=1.5)
            for role in roles
        ]
        labels = [f"{run.role_counts(role)['patients']} {ROLE_NAMES[role]} patients" for role in roles]
        figure.legend(handles, labels, loc="outside upper center", ncol=2, fontsize=8.5)
    sns.despine(figure, left=True)
    defined = "".join(
        f" Hollow: {run.role_summary(role)}, {ROLE_DEFINITIONS[role]}." for role in roles if role in ROLE_DEFINITIONS
    )
    caption = (
        f"ROC AUC of every classifier by patch, mean over {run.seeds_text()}, with {run.interval_text()}. Filled: "
        f"{run.role_summary('test')}.{defined} Numbers: test patients. Dotted, if drawn: chance."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "All classifiers", caption)


def patient_flow(run: Run) -> ReportFigure:
    """Draw which share of the patients and of the patches has each role, as two bars."""
    roles = [role for role in ROLE_NAMES if role in run.split["counts"] and not role.endswith("_other")]
    left_out = sum(counts["patches"] for role, counts in run.split["counts"].items() if role.endswith("_other"))
    figure, axes = plt.subplots(figsize=(4.5, 1.45))
    rows = []
    for y, unit in enumerate(("patients", "patches")):
        counts = np.array([run.role_counts(role)[unit] for role in roles])
        starts = np.cumsum([0, *counts[:-1]]) / counts.sum()
        for role, count, start in zip(roles, counts, starts, strict=True):
            share = count / counts.sum()
            axes.barh(y, share, left=start, color=ROLE_COLORS[role], height=0.62, edgecolor="#ffffff", lw=1)
            rows.append({"unit": unit, "role": role, "count": count, "share": share})
            if share >= MIN_LABELLED_SHARE:
                axes.annotate(f"{count:,}", (start + share / 2, y), ha="center", va="center", fontsize=8.5,
                              color="#1b1b1b")  # fmt: skip
    axes.set_yticks((0, 1), ("Patients", "Patches"), fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xticks=[])
    handles = [plt.Rectangle((0, 0), 1, 1, color=ROLE_COLORS[role]) for role in roles]
    figure.legend(handles, [ROLE_NAMES[role] for role in roles], loc="outside lower center", ncol=min(4, len(roles)),
                  fontsize=8, handlelength=1, columnspacing=1)  # fmt: skip
    sns.despine(figure, left=True, bottom=True)
    defined = "".join(f" {ROLE_NAMES[role].capitalize()}: {ROLE_DEFINITIONS[role]}." for role in roles
                      if role in ROLE_DEFINITIONS)  # fmt: skip
    left_out_text = (
        f" Left out: {left_out:,} patches from archives that the protocol does not score." if left_out else ""
    )
    selected = "the epoch" if run.is_multiclass else "the epoch, the threshold"
    caption = (
        f"Patients and patches by role. Training patients set the weights, validation patients {selected} and the "
        f"calibration; no {'network' if run.is_multiclass else 'network or threshold'} depends on the labels of the "
        f"others.{defined}{left_out_text}"
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Who is in which role", caption)
