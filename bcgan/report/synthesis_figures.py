"""Figures of the latent space, steering, translation between classes, linear probes, and the learning curve."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.classes import capitalize, class_text
from bcgan.evaluate.translations import NUM_PHANTOM_PATCHES
from bcgan.preprocess.properties import patch_features
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_NAMES,
    MUTED,
    ReportFigure,
    draw_estimate,
    rows_per_class,
    set_group_title,
    show_patch,
    text_color,
)
from bcgan.report.wording import join_words

ATTRIBUTE_NAMES = {
    "density": "Nuclear density (share of tissue)", "haematoxylin": "Haematoxylin (optical density)",
    "coverage": "Tissue coverage (share)", "contrast": "Texture contrast (levels²)",
}  # fmt: skip
TRANSLATION_STEPS = ("patch", "translated", "and back")
CHANGES = {
    "density": "Nuclear density", "haematoxylin": "Haematoxylin", "coverage": "Tissue coverage",
    "contrast": "Texture contrast", "red": "Red", "green": "Green", "blue": "Blue",
}  # fmt: skip


SIMILARITIES = {"flip_rate": "Called the other class", "layout_correlation": "Layout", "ssim": "Similarity (SSIM)"}


class TranslatedClass(NamedTuple):
    """One of the two classes between which patches are translated."""

    name: str
    text: str  # the name as part of a sentence
    color: str


def latent_walk(run: Run) -> ReportFigure:
    """Draw synthetic patches on the way from one noise vector to another, for each class."""
    walks = run.latent_walks["walk"]
    figure, numbers = _draw_patch_rows(run, walks[:, : rows_per_class(len(walks), walks.shape[1])])
    caption = (
        "Latent walks: each row goes along the sphere from one random noise vector (left) to another, the class held. "
        "A generator that has learnt single patches by heart jumps from one to the next; one that knows few layouts "
        f"keeps the same along the row. The grain is drawn anew for every patch. Not selected by hand. "
        f"{run.gan_training_summary()}"
    )
    return ReportFigure(figure, numbers, "Latent walks", caption)


def attribute_sweep(run: Run) -> ReportFigure:
    """Draw synthetic patches of the same noise with increasing nuclear density."""
    sweeps, targets = run.latent_walks["sweep"], run.latent_walks["asked"]
    sweeps = sweeps[:, : rows_per_class(len(sweeps), sweeps.shape[1])]
    densities = np.array([[measure_density(run, row) for row in rows] for rows in sweeps])
    figure, numbers = _draw_patch_rows(run, sweeps, densities, targets)
    caption = (
        "Attribute sweep: in each row one noise vector is moved along the direction of nuclear density, from the 10th "
        "to the 90th percentile of what the generator makes of that class. Under each patch is the density that was "
        "measured on it, and below each class the one that was asked for. "
        f"The grain is drawn anew for every patch. {run.gan_training_summary()}"
    )
    return ReportFigure(figure, numbers, "More and more nuclear density", caption)


def steering(run: Run) -> ReportFigure:
    """Draw the attributes that were asked for against those measured on the synthetic patches.

    The table has a row for each attribute and class: the number of patches, and the correlations with what was asked
    for of the steered patches (r_asked) and of the same noise left as it was (r_unasked).
    """
    table = run.steering
    names = [name for name in ATTRIBUTE_NAMES if name in set(table["attribute"])]
    num_classes = len(run.class_names)
    height = 3.2 + (0.18 * num_classes if run.is_multiclass else 0)
    figure, grid = plt.subplots(1, len(names), figsize=(2.75 * len(names), height), squeeze=False)
    rows = []
    for axes, name in zip(grid[0], names, strict=True):
        for label, kind in enumerate(run.class_names):
            of_class = table[(table["attribute"] == name) & (table["class"] == kind)]
            correlation, control = (of_class["asked"].corr(of_class[column]) for column in ("measured", "unasked"))
            text = f"r = {correlation:.2f}" if np.isfinite(correlation) else "does not vary"
            text, color = f"{run.class_texts[label]}: {text}", run.class_colors[kind]
            axes.plot(
                of_class["asked"], of_class["measured"], "o", ms=2, alpha=0.4, color=color, label=text, rasterized=True
            )
            if not run.is_multiclass:  # above the dots there is room for two lines
                axes.annotate(text, (0.03, 0.97 - 0.08 * label), xycoords="axes fraction", va="top",
                              fontsize=8, color=text_color(color))  # fmt: skip
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
        if run.is_multiclass:
            legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, markerscale=2)
            for handle in legend.legend_handles:
                handle.set_alpha(1)
    grid[0, 0].set_ylabel("Measured (same unit)")
    sns.despine(figure)
    count = len(table) // (len(names) * num_classes)
    caption = (
        f"Steering: {count} fresh noise vectors a class, each moved until a linear fit says what was asked for; then "
        "measured on the patch. Dotted: as asked. r is Pearson's correlation (about 0 for the same noise left where it "
        "was). Units: "
        + "; ".join(ATTRIBUTE_NAMES[name].lower() for name in names) + f". {run.gan_training_summary()}"
    )  # fmt: skip
    return ReportFigure(figure, pd.DataFrame(rows), "What was asked for and what was measured", caption)


def translations(run: Run) -> ReportFigure:
    """Draw patches, their translations to the other class, and the translations back."""
    kind = "real" if run.patient_images else "synthetic"
    pair = _translated_classes(run)
    columns = run.translated_patches[f"{kind}_{pair[0].name}"].shape[0]
    figure, grid = plt.subplots(6, columns, figsize=(0.95 * columns + 1, 7.4), squeeze=False)
    rows = []
    for index, (name, text, _) in enumerate(pair):
        target, triples = pair[1 - index], run.translated_patches[f"{kind}_{name}"]
        for step, step_name in enumerate((f"patch, {kind}", "translated,\nsynthetic", "and back,\nsynthetic")):
            densities = measure_density(run, triples[:, step]) if len(triples) else []
            for column in range(columns):
                axes = grid[3 * index + step, column]
                if column < len(triples):
                    show_patch(axes, triples[column, step], f"{densities[column]:.2f}")
                    rows.append({
                        "kind": kind, "class": name, "what": TRANSLATION_STEPS[step], "column": column,
                        "density": densities[column],
                    })  # fmt: skip
                else:
                    axes.set_axis_off()
            grid[3 * index + step, 0].set_ylabel(step_name, fontsize=8)
        set_group_title(grid[3 * index, 0], f"{capitalize(text)} to {target.text}", target.color)
    count, steps = sum(row["what"] == TRANSLATION_STEPS[0] for row in rows), run.experiment.translate.steps
    source = f" of {run.role_summary('test')}" if run.patient_images else ""
    caption = (
        f"Translations between {_pair_text(run)} by the cycle-consistent GAN ({steps:,} steps on "
        f"{run.role_summary('train')}): {count} {kind} patches{source}, drawn at random, what the translator makes of "
        "them, and that translated back; both are synthetic. Under each patch is its nuclear density."
    )
    return ReportFigure(figure, pd.DataFrame(rows), f"Translations between {_pair_text(run)}", caption)


def measure_density(run: Run, patches: np.ndarray) -> np.ndarray:
    """Return the nuclear density of patches, uint8 (n, side, side, 3), as the stage `features` measures it: (n,)."""
    return patch_features(patches, run.experiment.features.nuclear_od_threshold)["density"].to_numpy()


def _translated_classes(run: Run) -> list[TranslatedClass]:
    """Return the two classes between which patches are translated."""
    names = [run.class_names[label] for label in run.experiment.translated_labels]
    return [TranslatedClass(name, class_text(name), run.class_colors[name]) for name in names]


def _pair_text(run: Run) -> str:
    """Return the translated classes for a title: their names, if there are more than two."""
    return join_words([text for _, text, _ in _translated_classes(run)]) if run.is_multiclass else "the classes"


def counterfactuals(run: Run) -> ReportFigure:
    """Draw what translations change, in units of the real classes' difference, and how often the prediction flips.

    The table has a row for each class and quantity: value, low, high, and real_gap, the difference of the real classes.
    """
    classes = run.translations["classes"]
    figure, (changes, stays) = plt.subplots(1, 2, figsize=(9.5, 3.6), width_ratios=(1.5, 1))
    rows = []
    pair = _translated_classes(run)
    for index, (name, *_) in enumerate(pair):
        rows += _draw_changes(changes, classes[name], pair, index, run.translations["real_class_difference"])
        rows += _draw_similarities(stays, classes[name], pair, index)
    changes.set_yticks(range(len(CHANGES)), CHANGES.values())
    changes.axvline(0, color=MUTED, lw=1)
    changes.axvline(1, color=MUTED, lw=1, ls=":")
    changes.set_xlabel("Change, in units of the real classes' difference")
    changes.set_title("What changes")
    stays.set_yticks(range(len(SIMILARITIES)), SIMILARITIES.values())
    stays.set(xlim=(-0.03, 1.03), xlabel="Share, or correlation")
    stays.set_title("Calls, and what stays")
    for axes in (changes, stays):
        axes.invert_yaxis()
    handles, names = stays.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncol=2)
    sns.despine(figure)
    shift = [classes[name]["cielab_shift"]["value"] for name, *_ in pair]
    first, second = (text for _, text, _ in pair)
    classifier = CLASSIFIER_NAMES[run.translations["classifier"]]
    caption = (
        f"Counterfactuals: translations of the patches of {run.role_summary('test')}. Left: 1 (dotted) is a change as "
        f"large as the mean difference between real {first} and {second} patches. Right: how often {classifier}, "
        "which called the patch right, calls its translation the other class; correlation of the 5x5 layout of "
        f"brightness; structural similarity. Mean colour moves by {shift[0]:.1f} (to {second}) and {shift[1]:.1f} "
        f"(to {first}) CIE Lab units. Bars, if drawn: bootstrap over patients.{_phantom_truth_text(run)}"
    )
    for quantity, truth in (run.translations.get("phantom_ground_truth") or {}).items():
        for name, *_ in pair:
            rows.append({
                "class": name, "figure": quantity, **truth[name], "real_gap": truth["real_class_difference"],
            })  # fmt: skip
    return ReportFigure(figure, pd.DataFrame(rows), "What a translation changes, and what it leaves", caption)


def _draw_changes(
    axes: plt.Axes,
    estimates: dict[str, dict[str, float | None]],
    pair: list[TranslatedClass],
    index: int,
    real_difference: dict[str, float],
) -> list[dict]:
    """Draw how translation changes the image properties of a class's patches, and return rows for the figure's table.

    Args:
        estimates: {change_<property>: {value, low, high}}, for the properties in CHANGES.
        pair: The two classes that are translated into each other.
        index: Which of the pair is translated, 0 or 1.
        real_difference: By property, the mean of real patches of the second class minus that of the first.
    """
    color, sign, rows = pair[1 - index].color, 1 if index == 0 else -1, []
    for row, name in enumerate(CHANGES):
        estimate, unit = estimates[f"change_{name}"], real_difference[name] or np.nan
        # In units of the difference in the direction of the translation: 1 is as much as the classes differ.
        value, low, high = (
            np.nan if estimate[key] is None else sign * estimate[key] / unit for key in ("value", "low", "high")
        )
        y = row + (0.15 if index else -0.15)
        axes.plot([low, high], [y, y], color=color, lw=2)
        axes.plot([value], [y], "o", color=color, ms=5)
        rows.append({
            "class": pair[index].name, "figure": f"change_{name}", **estimate, "real_gap": real_difference[name],
        })  # fmt: skip
    return rows


def _draw_similarities(
    axes: plt.Axes, estimates: dict[str, dict[str, float | None]], pair: list[TranslatedClass], index: int
) -> list[dict]:
    """Draw the SIMILARITIES of patches of a class and their translations, and return the rows of their table.

    Arguments are those of `_draw_changes`, with estimates by name of SIMILARITIES.
    """
    source, target, rows = pair[index], pair[1 - index], []
    for row, name in enumerate(SIMILARITIES):
        estimate = estimates[name]
        if estimate["value"] is None:
            continue
        label = f"{source.text} to {target.text}" if row == 0 else None
        draw_estimate(axes, estimate, row + (0.15 if index else -0.15), target.color, label=label)
        rows.append({"class": source.name, "figure": name, **estimate, "real_gap": np.nan})
    return rows


def _phantom_truth_text(run: Run) -> str:
    """Return a sentence on how translations change phantom nuclei; empty for other data sets."""
    truth_by_quantity = run.translations.get("phantom_ground_truth")
    if not truth_by_quantity:
        return ""
    names = {
        "nuclear_area_fraction": "the share of the patch that nuclei cover", "nuclear_count": "their number",
        "nuclear_radius_px": "their radius",
    }  # fmt: skip
    first, second = _translated_classes(run)
    sentences = []
    for quantity, truth in truth_by_quantity.items():
        to_second = truth[first.name]["value"] / truth["real_class_difference"]
        to_first = -truth[second.name]["value"] / truth["real_class_difference"]
        sentences.append(f"{names[quantity]} by {to_second:.2f} and {to_first:.2f} (R² {truth['r2']:.2f})")
    return (
        f" On {2 * NUM_PHANTOM_PATCHES} procedural patches of other patients, whose nuclei are known, translation to "
        f"{second.text} and to {first.text} changes {', '.join(sentences)}, where 1 is the classes' true difference; "
        "read off by regressions on EfficientNet-Lite2's features, whose R² is given."
    )


def _draw_patch_rows(
    run: Run, patches: np.ndarray, measured: np.ndarray | None = None, asked: np.ndarray | None = None
) -> tuple[plt.Figure, pd.DataFrame]:
    """Draw rows of synthetic patches of each class; return the figure and the table of its numbers.

    Args:
        patches: uint8, (classes, rows, columns, side, side, 3).
        measured: (classes, rows, columns). Written under each patch. Defaults to `None`: nothing.
        asked: (classes, columns). Written below the last row of each class. Defaults to `None`: nothing.
    """
    num_classes, num_rows, num_columns = patches.shape[:3]
    size = 0.72 * num_columns + 0.2, 0.85 * num_classes * num_rows + 0.6
    figure, grid = plt.subplots(num_classes * num_rows, num_columns, figsize=size)
    cells = []
    for label, row, column in np.ndindex(num_classes, num_rows, num_columns):
        value = None if measured is None else float(measured[label, row, column])
        target = None if asked is None else float(asked[label, column])
        text = "" if value is None else f"{value:.2f}"
        text += f"\nasked {target:.2f}" if target is not None and row == num_rows - 1 else ""
        axes, name = grid[label * num_rows + row, column], run.class_names[label]
        show_patch(axes, patches[label, row, column], text)
        cells.append({"class": name, "row": row, "column": column, "measured": value, "asked": target})
        if row == column == 0:
            set_group_title(axes, f"{capitalize(run.class_texts[label])}, synthetic", run.class_colors[name])
    return figure, pd.DataFrame(cells)
