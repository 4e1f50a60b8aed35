"""Figures of what the GAN is worth to classification: linear probes of its features, and the learning curve."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.report.run import Run
from bcgan.report.stage_tables import learning_curve_gains
from bcgan.report.style import (
    ARM_NAMES,
    DISCRIMINATOR,
    INK,
    MUTED,
    REAL,
    SYNTHETIC,
    ReportFigure,
    draw_estimate,
)
from bcgan.report.wording import percent

PROBE_NAMES = {
    "colour_and_texture": "Colour and texture statistics", "untrained_discriminator": "Untrained discriminator",
    "discriminator_block1": "Discriminator, block 1", "discriminator_block2": "Discriminator, block 2",
    "discriminator_block3": "Discriminator, block 3", "discriminator_block4": "Discriminator, block 4",
    "discriminator_all": "Discriminator, all blocks", "supervised_cnn": "Supervised plain CNN",
    "discriminator_and_cnn": "Discriminator + plain CNN", "efficientnet_lite2": "EfficientNet-Lite2, ImageNet",
    "discriminator_and_efficientnet_lite2": "Discriminator + EfficientNet-Lite2",
}  # fmt: skip
TITLE_PROBES = {
    "discriminator_all": "trained", "untrained_discriminator": "untrained", "supervised_cnn": "of a supervised network",
}  # fmt: skip
ARM_COLORS = {"real": REAL, "classic": INK, "gan": "#CDB9DA", "selected": SYNTHETIC}


def probes(run: Run) -> ReportFigure:
    """Draw the test ROC AUC of linear probes on the discriminator's blocks and on controls."""
    evaluated = [name for name in PROBE_NAMES if name in run.probes]
    names = sorted(evaluated, key=lambda name: run.probes[name]["roc_auc"]["value"])
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(names) + 1.2))
    rows = []
    for row, name in enumerate(names):
        roc_auc = run.probes[name]["roc_auc"]
        color = DISCRIMINATOR if "discriminator" in name and "untrained" not in name else INK
        draw_estimate(axes, roc_auc, row, color, ms=None)
        axes.annotate(f"{roc_auc['value']:.3f}", (1.01, row), xycoords=("axes fraction", "data"), va="center",
                      fontsize=8)  # fmt: skip
        rows.append({"features": name, "dimensions": run.probes[name]["dimensions"], **roc_auc})
    axes.set_yticks(range(len(names)), [f"{PROBE_NAMES[name]} ({run.probes[name]['dimensions']})" for name in names])
    axes.set(xlabel="Test ROC AUC of a linear probe", ylim=(-0.6, len(names) - 0.4))
    sns.despine(figure)
    caption = (
        "Linear probes (logistic regression on channel means; number of features in brackets; penalty chosen on the "
        f"validation patients): {run.role_summary('test')}. Mean over {len(run.experiment.evaluate.probe_seeds)} draws "
        "of the training patients; bars, if drawn: bootstrap of test patients, widened by what draws vary. Light blue "
        "holds features of the "
        "trained discriminator."
    )
    title = "What the discriminator's features know"
    areas = [
        f"{text} {run.probes[name]['roc_auc']['value']:.3f}"
        for name, text in TITLE_PROBES.items()
        if name in run.probes
    ]
    title += f": ROC AUC {', '.join(areas)}" if areas else ""
    return ReportFigure(figure, pd.DataFrame(rows), title, caption)


def learning_curve(run: Run) -> ReportFigure:
    """Draw the test metrics of every arm at every fraction of training patients, and its gain over the arm `classic`.

    An arm is a kind of patches that training adds to the real ones. The table has rows of kind `level`, the metrics,
    and `difference`, the gains.
    """
    settings, curve = run.experiment.learning_curve, run.learning_curve
    figure, (levels, gains) = plt.subplots(1, 2, figsize=(10, 3.8))
    table = pd.DataFrame([
        {key: cell[key] for key in ("train_fraction", "arm", "patients", "patches")}
        | {"metric": metric, **cell["figures"][metric]}
        for cell in curve["cells"]
        for metric in ("balanced_accuracy", "roc_auc")
    ])  # fmt: skip
    shares = list(settings.train_fractions)
    for arm in settings.arms:
        values = table[(table["arm"] == arm) & (table["metric"] == "balanced_accuracy")]
        x = np.arange(len(shares)) + 0.09 * (list(ARM_NAMES).index(arm) - 2)
        _draw_error_bars(levels, x, values, ARM_COLORS[arm], ARM_NAMES[arm])
        arm_differences = pd.DataFrame([entry for entry in curve["differences"] if entry["arm"] == arm])
        if len(arm_differences):
            values = arm_differences[arm_differences["metric"] == "balanced_accuracy"]
            _draw_error_bars(gains, x, values, ARM_COLORS[arm], None)
    patients = [int(table.loc[table["train_fraction"] == share, "patients"].iloc[0]) for share in shares]
    tick_labels = [f"{percent(share)}\n({count})" for share, count in zip(shares, patients, strict=True)]
    for axes in (levels, gains):
        axes.set_xticks(range(len(shares)), tick_labels)
        axes.set_xlabel("Share (number) of training patients")
    gains.axhline(0, color=MUTED, lw=1)
    levels.set(ylabel="Test balanced accuracy")
    gains.set(ylabel="Difference to real + classic")
    levels.set_title("Learning curve")
    gains.set_title("What each arm adds")
    handles, texts = levels.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncol=5, fontsize=8)
    sns.despine(figure)
    widened = ", widened by what draws vary" if len(settings.seeds) > 1 else ""
    caption = (
        f"Learning curve: {run.role_summary('test')}. Table 1's ResNet, {settings.train_steps} steps in every cell, "
        f"mean of {len(settings.seeds)} draws of the patients{_added_patches_text(run)}. Right: paired differences. "
        f"Bars, if drawn: bootstrap of test patients{widened}."
    )
    differences = pd.DataFrame(curve["differences"]).assign(kind="difference")
    numbers = pd.concat([table.assign(kind="level"), differences], ignore_index=True)
    finding = "a gain at some shares" if learning_curve_gains(run) else "no gain is shown"
    return ReportFigure(figure, numbers, f"Synthetic patches where patients are few: {finding}", caption)


def _added_patches_text(run: Run) -> str:
    """Return a clause on what makes the patches that arms add; empty if no arm adds any."""
    settings = run.experiment.learning_curve
    if not {"gan", "selected"} & set(settings.arms):
        return ""
    has_projected = run.experiment.gan.projected_discriminator_weight > 0
    projected = " with a projected discriminator on ImageNet features" if has_projected else ""
    return (
        f"; what an arm adds is made from the same patients alone, by a GAN of {settings.gan_steps:,} steps"
        f"{projected}, and is {percent(settings.synthetic_fraction)} of each batch"
    )


def _draw_error_bars(axes: plt.Axes, x: np.ndarray, estimates: pd.DataFrame, color: str, label: str | None) -> None:
    """Draw the rows of `estimates` (value, low, high) with their intervals at the positions `x`.

    `label` is for the legend; `None` leaves them out of it.
    """
    value, low, high = (estimates[key].to_numpy(float) for key in ("value", "low", "high"))
    # A mean may lie outside the percentiles of its resamples.
    lengths = np.clip((value - low, high - value), 0, None)
    axes.errorbar(x, value, lengths, fmt="o", ms=4, color=color, lw=1.5, label=label)
