"""Pictures of what the GAN can be made to do, and of what its features know: walks, steering, translations, probes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.data.records import CLASSES
from bcgan.evaluate.translations import TRUTHS
from bcgan.report.run import Run
from bcgan.report.style import (
    ARM_NAMES,
    CLASS_COLOURS,
    CLASSIFIER_NAMES,
    DISCRIMINATOR,
    INK,
    MUTED,
    REAL,
    SYNTHETIC,
    TRANSLATED,
    Drawn,
    head,
    show_patch,
)

ATTRIBUTE_NAMES = {
    "density": "Nuclear density (share of tissue)", "haematoxylin": "Haematoxylin (optical density)",
    "coverage": "Tissue coverage (share)", "contrast": "Texture contrast (levels²)",
}  # fmt: skip
PROBE_NAMES = {
    "colour_and_texture": "Colour and texture statistics", "untrained_discriminator": "Untrained discriminator",
    "discriminator_block1": "Discriminator, block 1", "discriminator_block2": "Discriminator, block 2",
    "discriminator_block3": "Discriminator, block 3", "discriminator_block4": "Discriminator, block 4",
    "discriminator_all": "Discriminator, all blocks", "supervised_cnn": "Supervised plain CNN",
    "discriminator_and_cnn": "Discriminator + plain CNN", "efficientnet_lite2": "EfficientNet-Lite2, ImageNet",
    "discriminator_and_efficientnet_lite2": "Discriminator + EfficientNet-Lite2",
}  # fmt: skip
CHANGES = {
    "density": "Nuclear density", "haematoxylin": "Haematoxylin", "coverage": "Tissue coverage",
    "contrast": "Texture contrast", "red": "Red", "green": "Green", "blue": "Blue",
}  # fmt: skip


def latent_walk(run: Run) -> Drawn:
    """From one noise vector to another, class by class."""
    rows = [(label, row, run.walks["walk"][label, row]) for label in (0, 1) for row in range(2)]
    figure, rows_table = _sheet([(label, row, patches, None) for label, row, patches in rows])
    caption = (
        "Latent walks: each row goes along the sphere from one random noise vector (left) to another, the class held. "
        "A generator that has learnt single patches by heart jumps from one to the next; one that knows few layouts "
        f"keeps the same along the row. The grain is drawn anew for every patch. Not selected by hand. "
        f"{run.learnt_from()}"
    )
    return Drawn(figure, rows_table, "Latent walks", caption)


def attribute_sweep(run: Run) -> Drawn:
    """The same noise with more and more nuclear density asked for."""
    sheets, targets = run.walks["sweep"], run.walks["asked"]
    figure, rows_table = _sheet(
        [(label, row, sheets[label, row], targets[label]) for label in (0, 1) for row in range(sheets.shape[1])]
    )
    caption = (
        "Attribute sweep: in each row one noise vector is moved along the direction of nuclear density, from the 10th "
        "to the 90th percentile of what the generator makes of that class; what was asked for is under each column. "
        f"The grain is drawn anew for every patch. {run.learnt_from()}"
    )
    return Drawn(figure, rows_table, "More and more nuclear density", caption)


def steering(run: Run) -> Drawn:
    """What was asked of the generator, and what was measured on its patches."""
    table = run.steering
    names = [name for name in ATTRIBUTE_NAMES if name in set(table["attribute"])]
    figure, grid = plt.subplots(1, len(names), figsize=(2.75 * len(names), 3.2), squeeze=False)
    rows = []
    for axes, name in zip(grid[0], names, strict=True):
        for label, kind in enumerate(CLASSES):
            of_class = table[(table["attribute"] == name) & (table["class"] == kind)]
            correlation, control = (of_class["asked"].corr(of_class[column]) for column in ("measured", "unasked"))
            axes.plot(
                of_class["asked"],
                of_class["measured"],
                "o",
                ms=2,
                alpha=0.4,
                color=CLASS_COLOURS[kind],
                rasterized=True,
            )
            text = f"r = {correlation:.2f}" if np.isfinite(correlation) else "does not vary"
            axes.annotate(f"{kind}: {text}", (0.03, 0.97 - 0.08 * label), xycoords="axes fraction", va="top",
                          fontsize=8, color=CLASS_COLOURS[kind])  # fmt: skip
            rows.append(
                {"attribute": name, "class": kind, "n": len(of_class), "r_asked": correlation, "r_unasked": control}
            )
        values = table.loc[table["attribute"] == name, ["asked", "measured"]].to_numpy()
        low, high = values.min(), values.max()
        span = max(high - low, 1e-6)
        axes.plot([low, high], [low, high], color=MUTED, lw=1, ls=":")
        title, unit = ATTRIBUTE_NAMES[name].rstrip(")").split(" (")
        axes.set(xlabel=f"Asked for ({unit})", ylim=(low - 0.03 * span, low + 1.3 * span))
        axes.set_title(title, fontsize=9.5)
        axes.locator_params(nbins=4)
        axes.ticklabel_format(useOffset=False)
    grid[0, 0].set_ylabel("Measured (same unit)")
    sns.despine(figure)
    number = len(table) // (len(names) * len(CLASSES))
    caption = (
        f"Steering: {number} fresh noise vectors a class, each moved until a linear fit says what was asked for; then "
        "measured on the patch. Dotted: as asked. r is Pearson's correlation (about 0 for the same noise left where it "
        "was). Units: "
        + "; ".join(ATTRIBUTE_NAMES[name].lower() for name in names) + f". {run.learnt_from()}"
    )  # fmt: skip
    return Drawn(figure, pd.DataFrame(rows), "What was asked for and what was measured", caption)


def translations(run: Run) -> Drawn:
    """Patches, their translations to the other class, and the ways back."""
    kind = "real" if run.patient_images else "synthetic"
    columns = run.translated[f"{kind}_{CLASSES[0]}"].shape[0]
    figure, grid = plt.subplots(6, columns, figsize=(0.95 * columns + 0.9, 6.6), squeeze=False)
    rows = []
    for label, name in enumerate(CLASSES):
        triples = run.translated[f"{kind}_{name}"]
        for place, kind_of_image in enumerate(("patch", "translated", "and back")):
            for column in range(columns):
                axes = grid[3 * label + place, column]
                if column < len(triples):
                    show_patch(axes, triples[column, place])
                    rows.append({"kind": kind, "class": name, "what": kind_of_image, "column": column})
                else:
                    axes.set_axis_off()
            grid[3 * label + place, 0].set_ylabel(kind_of_image, fontsize=8)
        title = f"{name.capitalize()} to {CLASSES[1 - label]}"
        head(grid[3 * label, 0], title, CLASS_COLOURS[CLASSES[1 - label]])
    number, steps = sum(row["what"] == "patch" for row in rows), run.experiment.translate.steps
    source = f" of {run.said('test')}" if run.patient_images else ""
    caption = (
        f"Translations between the classes by the cycle-consistent GAN ({steps:,} steps on {run.said('train')}): "
        f"{number} {kind} patches{source}, drawn at random, what the translator makes of them, and that "
        "translated back."
    )
    return Drawn(figure, pd.DataFrame(rows), "Translations between the classes", caption)


def counterfactuals(run: Run) -> Drawn:
    """What a translation changes, in units of how the real classes differ, and how often the call flips."""
    classes, gap = run.translations["classes"], run.translations["real_class_difference"]
    figure, (changes, stays) = plt.subplots(1, 2, figsize=(9.5, 3.6), width_ratios=(1.5, 1))
    rows = []
    for label, name in enumerate(CLASSES):
        colour, sign = CLASS_COLOURS[CLASSES[1 - label]], 1 if label == 0 else -1
        for place, prop in enumerate(CHANGES):
            estimate = classes[name][f"change_{prop}"]
            value, low, high = ((sign * estimate[k] / (gap[prop] or np.nan)) if estimate[k] is not None else np.nan
                                for k in ("value", "low", "high"))  # fmt: skip
            y = place + (0.15 if label else -0.15)
            changes.plot([low, high], [y, y], color=colour, lw=2)
            changes.plot([value], [y], "o", color=colour, ms=5)
            rows.append({"class": name, "figure": f"change_{prop}", **estimate, "real_gap": gap[prop]})
        for place, (key, _) in enumerate(_STAYS):
            estimate = classes[name][key]
            if estimate["value"] is None:
                continue
            y = place + (0.15 if label else -0.15)
            if estimate["low"] is not None:
                stays.plot([estimate["low"], estimate["high"]], [y, y], color=colour, lw=2)
            stays.plot([estimate["value"]], [y], "o", color=colour, ms=5,
                       label=f"{name} to {CLASSES[1 - label]}" if not place else None)  # fmt: skip
            rows.append({"class": name, "figure": key, **estimate, "real_gap": np.nan})
    changes.set_yticks(range(len(CHANGES)), CHANGES.values())
    changes.axvline(0, color=MUTED, lw=1)
    changes.axvline(1, color=MUTED, lw=1, ls=":")
    changes.set_xlabel("Change, in units of the real classes' difference")
    changes.set_title("What changes")
    stays.set_yticks(range(len(_STAYS)), [name for _, name in _STAYS])
    stays.set(xlim=(-0.03, 1.03), xlabel="Share, or correlation")
    stays.set_title("Calls, and what stays")
    for axes in (changes, stays):
        axes.invert_yaxis()
    handles, names = stays.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncol=2)
    sns.despine(figure)
    shift = [classes[name]["cielab_shift"]["value"] for name in CLASSES]
    classifier = CLASSIFIER_NAMES[run.translations["classifier"]]
    caption = (
        f"Counterfactuals: translations of the patches of {run.said('test')}. Left: 1 (dotted) is a change as large as "
        f"the mean difference between real benign and malignant patches. Right: how often {classifier}, which called "
        "the patch right, calls its translation the other class; correlation of the 5x5 layout of brightness; "
        f"structural similarity. Mean colour moves by {shift[0]:.1f} (to malignant) and {shift[1]:.1f} (to benign) CIE "
        f"Lab units. Bars: bootstrap over patients.{_truth(run)}"
    )
    for prop_name, estimate in (run.translations.get("phantom_ground_truth") or {}).items():
        rows += [
            {"class": name, "figure": prop_name, **estimate[name], "real_gap": estimate["real_class_difference"]}
            for name in CLASSES
        ]
    return Drawn(figure, pd.DataFrame(rows), "What a translation changes, and what it leaves", caption)


def _truth(run: Run) -> str:
    """What translations do to nuclei where every one is known, in a sentence of the caption."""
    known = run.translations.get("phantom_ground_truth")
    if not known:
        return ""
    names = {
        "nuclear_area_fraction": "the share of the patch that nuclei cover", "nuclear_count": "their number",
        "nuclear_radius_px": "their radius",
    }  # fmt: skip
    sentences = []
    for prop, truth in known.items():
        moved = [
            sign * truth[name]["value"] / truth["real_class_difference"]
            for sign, name in ((1, "benign"), (-1, "malignant"))
        ]
        sentences.append(f"{names[prop]} by {moved[0]:.2f} and {moved[1]:.2f} (R² {truth['r2']:.2f})")
    return (
        f" On {2 * TRUTHS} procedural patches of other patients, whose nuclei are known, translation to malignant and "
        f"to benign changes {', '.join(sentences)}, where 1 is the classes' true difference; read off by regressions "
        "on EfficientNet-Lite2's features, whose R² is given."
    )


def probes(run: Run) -> Drawn:
    """Linear probes of the discriminator's blocks beside controls."""
    names = sorted((n for n in PROBE_NAMES if n in run.probes), key=lambda n: run.probes[n]["roc_auc"]["value"])
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(names) + 1.2))
    rows = []
    for place, name in enumerate(names):
        roc_auc = run.probes[name]["roc_auc"]
        colour = DISCRIMINATOR if "discriminator" in name and "untrained" not in name else INK
        if roc_auc["low"] is not None:
            axes.plot([roc_auc["low"], roc_auc["high"]], [place, place], color=colour, lw=2)
        axes.plot([roc_auc["value"]], [place], "o", color=colour)
        axes.annotate(f"{roc_auc['value']:.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center",
                      fontsize=8)  # fmt: skip
        rows.append({"features": name, "dimensions": run.probes[name]["dimensions"], **roc_auc})
    axes.set_yticks(range(len(names)), [f"{PROBE_NAMES[n]} ({run.probes[n]['dimensions']})" for n in names])
    axes.set(xlabel="Test ROC AUC of a linear probe", ylim=(-0.6, len(names) - 0.4))
    sns.despine(figure)
    caption = (
        "Linear probes (logistic regression on channel means; number of features in brackets; penalty chosen on the "
        f"validation patients): {run.said('test')}. Mean over {len(run.experiment.evaluate.probe_seeds)} draws of the "
        "training patients; bars: bootstrap over test patients. Light blue holds features of the trained discriminator."
    )
    return Drawn(figure, pd.DataFrame(rows), "What the discriminator's features know", caption)


def learning_curve(run: Run) -> Drawn:
    """What synthetic patches are worth where patients are few."""
    settings, curve = run.experiment.learning_curve, run.learning_curve
    figure, (levels, gains) = plt.subplots(1, 2, figsize=(10, 3.8))
    table = pd.DataFrame(
        [{**{k: cell[k] for k in ("train_fraction", "arm", "patients", "patches")}, "metric": metric,
          **cell["figures"][metric]}
         for cell in curve["cells"] for metric in ("balanced_accuracy", "roc_auc")]
    )  # fmt: skip
    shares = list(settings.train_fractions)
    names = list(ARM_NAMES)
    for arm in settings.arms:
        of_arm = table[(table["arm"] == arm) & (table["metric"] == "balanced_accuracy")]
        shift = 0.09 * (names.index(arm) - 2)
        places = np.arange(len(shares)) + shift
        _error_bars(levels, places, of_arm, ARM_COLOURS[arm], ARM_NAMES[arm])
        against = pd.DataFrame([d for d in curve["differences"] if d["arm"] == arm])
        if len(against):
            of_arm = against[against["metric"] == "balanced_accuracy"]
            _error_bars(gains, places, of_arm, ARM_COLOURS[arm], None)
    patients = [int(table.loc[table["train_fraction"] == share, "patients"].iloc[0]) for share in shares]
    for axes in (levels, gains):
        axes.set_xticks(range(len(shares)), [f"{s:.0%}\n({n})" for s, n in zip(shares, patients, strict=True)])
        axes.set_xlabel("Share (number) of training patients")
    gains.axhline(0, color=MUTED, lw=1)
    levels.set(ylabel="Test balanced accuracy")
    gains.set(ylabel="Difference to real + classic")
    levels.set_title("Learning curve")
    gains.set_title("What each arm adds")
    handles, texts = levels.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncol=5, fontsize=8)
    sns.despine(figure)
    caption = (
        f"Learning curve: {run.said('test')}. Table 1's ResNet, {settings.train_steps} steps in every cell, mean of "
        f"{len(settings.seeds)} draws of the patients; what an arm adds is made from the same patients alone, under a "
        f"projected discriminator on ImageNet features (GAN {settings.gan_steps:,} steps, translation "
        f"{settings.translate_steps:,}), "
        f"and is {settings.synthetic_fraction:.0%} of each batch. Right: paired differences. Bars: bootstrap over "
        f"{curve['ci_over']}."
    )
    differences = pd.DataFrame(curve["differences"]).assign(kind="difference")
    numbers = pd.concat([table.assign(kind="level"), differences], ignore_index=True)
    return Drawn(figure, numbers, "Synthetic patches where patients are few", caption)


def _error_bars(axes, places: np.ndarray, estimates: pd.DataFrame, colour: str, name: str | None) -> None:
    value, low, high = (estimates[key].to_numpy(float) for key in ("value", "low", "high"))
    ends = np.clip((value - low, high - value), 0, None)  # a mean may lie outside the percentiles of its resamples
    axes.errorbar(places, value, ends, fmt="o", ms=4, color=colour, lw=1.5, label=name)


ARM_COLOURS = {
    "real": REAL, "classic": INK, "gan": "#CDB9DA", "selected": SYNTHETIC, "translation": TRANSLATED,
}  # fmt: skip
_STAYS = (("flip_rate", "Called the other class"), ("layout_correlation", "Layout"), ("ssim", "Similarity (SSIM)"))


def _sheet(rows: list[tuple[int, int, np.ndarray, np.ndarray | None]]) -> tuple[plt.Figure, pd.DataFrame]:
    """Rows of patches, benign ones first, with a number under each where there is one."""
    columns = len(rows[0][2])
    figure, grid = plt.subplots(len(rows), columns, figsize=(0.72 * columns + 0.2, 0.85 * len(rows) + 0.6))
    columns_table = []
    for place, (label, row, patches, numbers) in enumerate(rows):
        for column, patch in enumerate(patches):
            number = None if numbers is None else float(numbers[column])
            last = place + 1 == len(rows) or rows[place + 1][0] != label
            show_patch(grid[place, column], patch, f"{number:.2f}" if number is not None and last else "")
            columns_table.append({"class": CLASSES[label], "row": row, "column": column, "asked": number})
        if row == 0:
            head(grid[place, 0], f"{CLASSES[label].capitalize()}, synthetic", CLASS_COLOURS[CLASSES[label]])
    return figure, pd.DataFrame(columns_table)
