"""Figures of explanations and their tests, feature maps, and the largest errors."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.classes import CLASSES
from bcgan.evaluate.explanations import NUM_PHANTOM_PATCHES, PIXEL_FRACTIONS, without_edges
from bcgan.evaluate.intervals import format_estimate
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASS_COLORMAP,
    CLASS_COLORS,
    CLASSIFIER_COLORS,
    CLASSIFIER_NAMES,
    MUTED,
    ReportFigure,
    set_group_title,
    show_patch,
)

METHODS = {
    "grad_cam": "Grad-CAM", "integrated_gradients": "Integrated\ngradients", "occlusion": "Occlusion",
    "random_map": "Random map",
}  # fmt: skip
LINE_STYLES = {"grad_cam": "-", "integrated_gradients": "--", "occlusion": "-.", "random_map": ":"}
CURVES = {"deletion": ("Deletion", "wiped out"), "insertion": ("Insertion", "shown")}
GAINS = {"top5_hit_rate": "Strongest 5 %\nof pixels", "energy_pointing_game": "All that supports\nmalignancy"}

LAYERS = {
    "block1": "Discriminator\nblock 1", "block2": "Discriminator\nblock 2", "block3": "Discriminator\nblock 3",
    "block4": "Discriminator\nblock 4", "stem_pool": "ResNet\nstem", "joint": "Features\njoined",
    "bottleneck1_add": "Bottleneck 1", "bottleneck2_add": "Bottleneck 2", "bottleneck4_add": "Bottleneck 4",
}  # fmt: skip
NUM_ERRORS = 8  # patients of each class in the error gallery


def explanations(run: Run) -> ReportFigure:
    """Draw one column per patch and one row per method."""
    kind = "real" if run.patient_images else "synthetic"
    arrays = {
        name.removeprefix(f"{kind}_"): value for name, value in run.explained_patches.items() if name.startswith(kind)
    }
    methods = [name for name in METHODS if name in arrays]
    labels, num_patches = run.explained_patches["labels"], len(arrays["images"])
    figure, grid = plt.subplots(
        1 + len(methods), num_patches, figsize=(1.15 * num_patches + 1, 1.25 * (1 + len(methods)) + 0.4)
    )
    rows, name = [], run.explanations["classifier"]
    threshold = run.metrics[name]["thresholds"][str(run.explanations["seed"])]
    for column in range(num_patches):
        probability, label = float(arrays["probability"][column]), CLASSES[labels[column]]
        is_wrong = (probability >= threshold) != labels[column]
        show_patch(grid[0, column], arrays["images"][column])
        title = f"{label}\n{probability:.2f}, {'wrong' if is_wrong else 'right'}"
        grid[0, column].set_title(title, fontsize=8, color=CLASS_COLORS[label], loc="center")
        row = {"patch": str(arrays["id"][column]) if "id" in arrays else f"synthetic {column}", "label": label,
               "probability": probability, "right": not is_wrong}  # fmt: skip
        for axes, method in zip(grid[1:, column], methods, strict=True):
            map_values = arrays[method][column]
            limit = np.abs(map_values).max() or 1.0
            axes.imshow(map_values, cmap=CLASS_COLORMAP, vmin=-limit, vmax=limit, interpolation="none")
            axes.set(xticks=[], yticks=[])
            sns.despine(ax=axes, left=True, bottom=True)
            row |= {f"{method}_for": map_values.clip(0).sum(), f"{method}_against": -map_values.clip(max=0).sum()}
        rows.append(row)
    grid[0, 0].set_ylabel("Patch", fontsize=9)
    for axes, method in zip(grid[1:, 0], methods, strict=True):
        axes.set_ylabel(METHODS[method], fontsize=9)
    patches = (
        f"{num_patches} patches of {run.role_summary('test')}"
        if kind == "real" else f"{num_patches} synthetic patches (none of a patient may be shown here)"
    )  # fmt: skip
    caption = (
        f"Where {CLASSIFIER_NAMES[name]} finds its evidence: {patches}, of each class the best calls, then "
        "the worst. Above each the class, the probability of malignancy, of this one view (elsewhere: of all "
        f"orientations), and whether the call at {threshold:.3f} is right; orange supports malignancy, blue "
        "against; each map has its own scale."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Explanations", caption)


def tests(run: Run) -> ReportFigure:
    """Draw the tests of the explanations: deletion, insertion and, on phantom patches, the pointing game."""
    results = run.explanations
    methods = [name for name in METHODS if name in results]
    gains = [test for test in GAINS if test in results[methods[0]]]
    colors = {name: MUTED if name == "random_map" else CLASSIFIER_COLORS[results["classifier"]] for name in methods}
    widths = [1.2] * len(CURVES) + [1.0] * len(gains)
    figure, grid = plt.subplots(1, len(widths), figsize=(2.3 * sum(widths) + 1, 3.1), width_ratios=widths)
    rows = []
    for axes, (test, (title, verb)) in zip(grid, CURVES.items(), strict=False):
        for name in methods:
            curve = results[name][test]["curve"]
            label = METHODS[name].replace("\n", " ")
            axes.plot(PIXEL_FRACTIONS, curve, ls=LINE_STYLES[name], lw=1.6, color=colors[name], label=label)
            points = zip(PIXEL_FRACTIONS, curve, strict=True)
            rows += [{"method": name, "test": test, "share": level, "value": value} for level, value in points]
            area = {key: results[name][test][key] for key in ("value", "low", "high")}
            rows.append({"method": name, "test": f"{test}_area", **area})
        axes.set_title(title, fontsize=9.5)
        axes.set(xlabel=f"Share of pixels {verb}", ylabel="Mean probability of the call", ylim=(0, 1.02))
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=7.5, loc="outside lower center", ncol=len(methods))
    for axes, test in zip(grid[len(CURVES) :], gains, strict=True):
        rows += _draw_localization(axes, results, test, colors)
        axes.set_yticks(range(len(methods)), [METHODS[name] if test == gains[0] else "" for name in methods])
        axes.invert_yaxis()
    sns.despine(figure)
    areas = "; ".join(
        f"{METHODS[name].replace(chr(10), ' ')} "
        + " and ".join(format_estimate(results[name][test]) for test in CURVES)
        for name in methods
    )
    truth = (
        " On the right, how much of what supports malignancy lies on malignant nuclei, on "
        f"{NUM_PHANTOM_PATCHES} patches of new procedural patients, whose nuclei are known; filled: the trained "
        "network, hollow: the same network untrained. Only what lies between the two is learnt."
        if gains else ""
    )  # fmt: skip
    caption = (
        f"Can the maps be believed? {results['patches']} test patches of {results['patients']} patients: the mean "
        "probability of the call while the pixels that support it most are removed (a good map falls fast) and "
        "while they alone are shown (a good map rises fast). Areas under the two, with "
        f"{run.experiment.evaluate.confidence_level:.0%} intervals by patient bootstrap: {areas}.{truth}"
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Tests of the explanations", caption)


def _draw_localization(axes, results: dict, test: str, colors: dict[str, str]) -> list[dict]:
    """Draw a localization score of the trained and the untrained network, and return the rows of its table.

    Args:
        test: Of GAINS.
        colors: By method.
    """
    rows = []
    for row, (name, color) in enumerate(colors.items()):
        for suffix, height, face in (("", row - 0.16, color), ("_untrained", row + 0.16, "none")):
            estimate = results[name][f"{test}{suffix}"]
            if estimate["low"] is not None:
                axes.plot([estimate["low"], estimate["high"]], [height, height], color=color, lw=1.6)
            axes.plot(estimate["value"], height, "o", ms=5, color=color, mfc=face)
            rows.append({"method": name, "test": f"{test}{suffix}", **estimate})
    axes.axvline(0, color=MUTED, ls=":", lw=1)
    axes.set_title(GAINS[test], fontsize=9.5)
    axes.set_xlabel("Share on malignant nuclei,\nless their share of all pixels")
    return rows


def feature_maps(run: Run) -> ReportFigure:
    """Draw feature maps of a benign patch (left) and a malignant one (right), a row for each layer."""
    kind = "real" if run.patient_images else "synthetic"
    by_layer = {layer: run.explained_patches[f"{kind}_features_{layer}"] for layer in LAYERS
             if f"{kind}_features_{layer}" in run.explained_patches}  # fmt: skip
    labels = run.explained_patches["labels"]
    patch_indices = [int(np.flatnonzero(labels == label)[0]) for label in range(2)]
    channels = max(len(maps) for maps in by_layer.values())
    figure, grid = plt.subplots(
        len(by_layer), 2 * (channels + 1), figsize=(10.5, 0.82 * len(by_layer) + 0.5), squeeze=False,
        width_ratios=2 * (1.3, *[1] * channels),
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    rows = []
    for label, patch_index in enumerate(patch_indices):
        first_column, name = label * (channels + 1), CLASSES[labels[patch_index]]
        show_patch(grid[0, first_column], run.explained_patches[f"{kind}_images"][patch_index])
        grid[0, first_column].set_title(name.capitalize(), fontsize=10, color=CLASS_COLORS[name])
        for axes_row, (layer, maps) in zip(grid, by_layer.items(), strict=True):
            maps = without_edges(maps.astype(np.float32))  # values at the edges would dominate the color scale
            for channel, (pair, axes) in enumerate(zip(maps, axes_row[first_column + 1 :], strict=False)):
                values = pair[label]
                axes.imshow(values, cmap="viridis", vmin=pair.min(), vmax=pair.max(), interpolation="none")
                shape = {"height": values.shape[0], "width": values.shape[1]}
                row = {"layer": layer, "class": name, "channel": channel, **shape}
                rows.append(row | {"mean": values.mean(), "deviation": values.std()})
    for axes_row, (layer, maps) in zip(grid, by_layer.items(), strict=True):
        text = f"{LAYERS[layer]}\n{maps.shape[2]}x{maps.shape[3]}"
        axes_row[1].annotate(text, (-0.15, 0.5), xycoords="axes fraction", fontsize=7.5, ha="right", va="center")
    source = f"of {run.role_summary('test')}" if run.patient_images else "synthetic"
    caption = (
        f"What the layers answer to: 2 patches, one benign and one malignant ({source}), and of some layers of the "
        f"discriminator and of {CLASSIFIER_NAMES[run.explanations['classifier']]} the {channels} channels that "
        "vary most over the two. A channel has one scale for both patches; bright is high. Left out: an eighth "
        "at every edge, where a layer answers to its padding."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Feature maps", caption)


def error_gallery(run: Run) -> ReportFigure:
    """Draw benign patches that were called malignant, and malignant ones that were missed."""
    table = tables.largest_errors(run, NUM_ERRORS)
    store_rows = pd.Series(run.store.index.index, run.store.index["id"])
    figure, grid = plt.subplots(2, NUM_ERRORS, figsize=(1.25 * NUM_ERRORS, 3.6), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes_row, name, title in zip(grid, CLASSES, ("called malignant", "missed"), strict=True):
        errors = table[table["Label"] == name].to_numpy()
        for axes, (patch_id, patient, _, probability) in zip(axes_row, errors, strict=False):
            show_patch(axes, run.store.images[store_rows[patch_id]], f"{patient}\n{probability:.3f}")
        set_group_title(axes_row[0], f"{name.capitalize()}, {title}", CLASS_COLORS[name])
    caption = (
        f"The largest errors of {CLASSIFIER_NAMES[run.classifier_names[0]]} on {run.role_summary('test')}: of either "
        "class one patch a patient, under it the patient and the probability of malignancy, mean over "
        f"{run.seeds_text()}; called malignant from {run.mean_threshold(run.classifier_names[0]):.3f} on. Ids: in the "
        "table of the largest errors."
    )
    return ReportFigure(figure, table, "Where it is most wrong", caption)
