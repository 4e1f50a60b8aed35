"""Figures of explanations and their tests, feature maps, and the largest errors."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.classes import capitalize, class_noun
from bcgan.evaluate.explanations import NUM_PHANTOM_PATCHES, NUM_UNTRAINED, without_edges
from bcgan.evaluate.intervals import MIN_PATIENTS, format_estimate
from bcgan.evaluate.metrics import call
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_COLORS,
    CLASSIFIER_NAMES,
    INK,
    MUTED,
    ReportFigure,
    blank_grid,
    class_colormap,
    draw_estimate,
    set_group_title,
    show_patch,
    text_color,
)
from bcgan.report.wording import MAX_LISTED_CLASSES, join_words, percent

METHODS = {
    "grad_cam": "Grad-CAM", "integrated_gradients": "Integrated\ngradients", "occlusion": "Occlusion",
    "random_map": "Random map",
}  # fmt: skip
LINE_STYLES = {"grad_cam": "-", "integrated_gradients": "--", "occlusion": "-.", "random_map": ":"}
CURVES = {"deletion": ("Deletion", "wiped out"), "insertion": ("Insertion", "shown")}
GAINS = {"top5_hit_rate": "Strongest 5 %\nof pixels", "energy_pointing_game": "All that supports\n{noun}"}

LAYERS = {
    "block1": "Discriminator\nblock 1", "block2": "Discriminator\nblock 2", "block3": "Discriminator\nblock 3",
    "block4": "Discriminator\nblock 4", "stem_pool": "ResNet\nstem", "joint": "Features\njoined",
    "bottleneck1_add": "Bottleneck 1", "bottleneck2_add": "Bottleneck 2", "bottleneck4_add": "Bottleneck 4",
}  # fmt: skip
FLAT_MAP = 1e-6  # difference of a map's largest and smallest value below which it explains nothing
NUM_MAPS = 16  # feature maps of a layer in a row of the figure, of all classes together
NUM_ERRORS = 8  # patients of each class in the error gallery


def explanations(run: Run) -> ReportFigure:
    """Draw the explanations of patches of two classes, a column for each patch and a row for each method."""
    kind, arrays, methods = _explained_arrays(run)
    labels, num_patches = run.explained_patches["labels"], len(arrays["images"])
    figure, grid = plt.subplots(
        1 + len(methods), num_patches, figsize=(1.15 * num_patches + 1, 1.25 * (1 + len(methods)) + 0.4)
    )
    rows, name, explained = [], run.explanations["classifier"], run.experiment.explained_label
    threshold = run.metrics[name]["thresholds"][str(run.explanations["seed"])]
    probabilities = arrays["probability"].astype(float)
    called = call(probabilities if explained == 1 else 1 - probabilities, threshold)
    is_right, called_texts = called == labels, [run.class_texts[label] for label in called]
    verdicts = {True: "right", False: "wrong"}
    for column in range(num_patches):
        probability, label = probabilities[column], run.class_names[labels[column]]
        show_patch(grid[0, column], arrays["images"][column])
        title = f"{run.class_texts[labels[column]]}{'' if kind == 'real' else ' asked'}\n{probability:.2f}, "
        title += verdicts[bool(is_right[column])] if kind == "real" else f"called\n{called_texts[column]}"
        grid[0, column].set_title(title, fontsize=8, color=run.class_colors[label], loc="center")
        row = {"patch": _explained_id(arrays, column), "label": label, "probability": probability,
               "called": run.class_names[called[column]]}  # fmt: skip
        rows.append(row | _draw_maps(run, grid[1:, column], arrays, methods, column))
    grid[0, 0].set_ylabel("Patch", fontsize=9)
    for axes, method in zip(grid[1:, 0], methods, strict=True):
        axes.set_ylabel(METHODS[method], fontsize=9)
    noun = class_noun(run.class_names[explained])
    supporting, against = ("orange", "blue") if explained == 1 else ("blue", "orange")
    outcome = "whether the call is right" if kind == "real" else (
        "what it is called; a synthetic patch has no true class, only one that was asked for,"
    )  # fmt: skip
    caption = (
        f"Where {CLASSIFIER_NAMES[name]} finds its evidence: {_explained_text(run, kind, num_patches)}, of each class "
        f"the best calls, then the worst. Above each the class, the probability of {noun}, of one training and one "
        f"view, and {outcome} at {threshold:.3f}; {supporting} supports {noun}, {against} "
        "against; each map has its own scale, and one without a difference is marked as flat."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Explanations", caption)


def explanations_by_class(run: Run) -> ReportFigure:
    """Draw the saliency maps of two patches of each of more than two classes, a row for each class.

    The two are the best and the worst predicted patch, by the error of the explained class's probability. Each is
    followed by its map of every method.
    """
    kind, arrays, methods = _explained_arrays(run)
    labels, explained = run.explained_patches["labels"], run.experiment.explained_label
    num_columns = 1 + len(methods)  # a patch and its maps
    size, widths = (2.4 * num_columns + 0.7, 1.3 * len(run.class_names) + 0.4), [1] * num_columns
    figure, grid = blank_grid(len(run.class_names), 2 * num_columns + 1, size, width_ratios=(*widths, 0.2, *widths))
    rows = []
    for label, name in enumerate(run.class_names):
        # Of each class the first half are the best, the best one first, and the others the worst, the worst one first.
        patches = np.flatnonzero(labels == label)
        best_and_worst = [patches[0], patches[len(patches) // 2]] if len(patches) else []
        for first_column, patch in zip((0, num_columns + 1), best_and_worst, strict=False):
            axes_row = grid[label, first_column : first_column + num_columns]
            probability = float(arrays["probability"][patch])
            show_patch(axes_row[0], arrays["images"][patch], f"{probability:.2f}")
            row = {"patch": _explained_id(arrays, patch), "label": name, "probability": probability}
            rows.append(row | _draw_maps(run, axes_row[1:], arrays, methods, patch))
        text, color = capitalize(run.class_texts[label]).replace(" ", "\n"), text_color(run.class_colors[name])
        grid[label, 0].set_ylabel(text, fontsize=9, color=color)
    extremes = ("Best", "Worst") if kind == "real" else ("Most like it", "Least like it")
    for first_column, title in zip((0, num_columns + 1), extremes, strict=True):
        for axes, text in zip(grid[0, first_column:], [title, *(METHODS[method] for method in methods)], strict=False):
            axes.set_title(text, fontsize=8.5, loc="center")
    noun = class_noun(run.class_names[explained])
    caption = (
        f"Where {CLASSIFIER_NAMES[run.explanations['classifier']]} finds its evidence for or against {noun}: "
        f"{_explained_text(run, kind, len(rows))}, of each class one with the smallest error of the probability of "
        f"{noun} and one with the largest. Under each that probability, of one training and one view. "
        f"What supports {noun} has the colour of the class, what is against it is dark; each map "
        "has its own scale."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Explanations", caption)


def _explained_arrays(run: Run) -> tuple[str, dict[str, np.ndarray], list[str]]:
    """Return what the explanation figures show: real patches or, if these may not be shown, synthetic ones.

    Returns:
        `real` or `synthetic`; their arrays of `explanations.npz` by name without that prefix: images, probability and a
        map for each method; and the names of the methods.
    """
    kind = "real" if run.patient_images else "synthetic"
    arrays = {
        name.removeprefix(f"{kind}_"): value for name, value in run.explained_patches.items() if name.startswith(kind)
    }
    return kind, arrays, [name for name in METHODS if name in arrays]


def _explained_id(arrays: dict[str, np.ndarray], column: int) -> str:
    """Return the id of the explained patch number `column`; synthetic patches have none but their number."""
    return str(arrays["id"][column]) if "id" in arrays else f"synthetic {column}"


def _explained_text(run: Run, kind: str, count: int) -> str:
    """Return which patches are explained, for captions."""
    if kind == "real":
        return f"{count} patches of {run.role_summary('test')}"
    return f"{count} synthetic patches (none of a patient may be shown here)"


def _draw_maps(
    run: Run, axes_by_method: np.ndarray, arrays: dict[str, np.ndarray], methods: list[str], patch: int
) -> dict[str, float]:
    """Draw a patch's map of each method.

    Args:
        axes_by_method: Axes, one for each of `methods`.
        arrays: {method: float, (patches, height, width)}; positive values support the explained class.
        patch: Number of the patch.

    Returns:
        {<method>_for, <method>_against}: the sums of the positive and of the negative values, without sign: how much of
        the map supports the explained class and how much is against it.
    """
    explained = run.class_names[run.experiment.explained_label]
    other_colors = [color for name, color in run.class_colors.items() if name != explained]
    against = INK if run.is_multiclass else other_colors[0]
    colors, sums = class_colormap(against, text_color(run.class_colors[explained])), {}
    for axes, method in zip(axes_by_method, methods, strict=True):
        map_values = arrays[method][patch]
        limit = np.abs(map_values).max() or 1.0
        show_patch(axes, map_values, cmap=colors, vmin=-limit, vmax=limit)
        if np.ptp(map_values) < FLAT_MAP:
            axes.annotate("flat", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", fontsize=8)
        sums |= {f"{method}_for": map_values.clip(0).sum(), f"{method}_against": -map_values.clip(max=0).sum()}
    return sums


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
            fractions = np.linspace(0, 1, len(curve))
            label = METHODS[name].replace("\n", " ")
            axes.plot(fractions, curve, ls=LINE_STYLES[name], lw=1.6, color=colors[name], label=label)
            points = zip(fractions, curve, strict=True)
            rows += [{"method": name, "test": test, "share": level, "value": value} for level, value in points]
            area = {key: results[name][test][key] for key in ("value", "low", "high")}
            rows.append({"method": name, "test": f"{test}_area", **area})
        axes.set_title(title, fontsize=9.5)
        axes.set(xlabel=f"Share of pixels {verb}", ylabel="Mean probability of the call", ylim=(0, 1.02))
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=7.5, loc="outside lower center", ncol=len(methods))
    for axes, test in zip(grid[len(CURVES) :], gains, strict=True):
        rows += _draw_localization(axes, results, test, colors)
        axes.set_title(GAINS[test].format(noun=class_noun(run.class_names[1])), fontsize=9.5)
        axes.set_yticks(range(len(methods)), [METHODS[name] if test == gains[0] else "" for name in methods])
        axes.invert_yaxis()
    sns.despine(figure)
    areas = "; ".join(
        f"{METHODS[name].replace(chr(10), ' ')} "
        + " and ".join(format_estimate(results[name][test]) for test in CURVES)
        for name in methods
    )
    explained = run.class_names[run.experiment.explained_label]
    truth = (
        f" On the right, how much of what supports {class_noun(explained)} lies on malignant nuclei, on "
        f"{NUM_PHANTOM_PATCHES} patches of new procedural patients, whose nuclei are known; filled: the trained "
        f"network, hollow: the mean of {NUM_UNTRAINED} untrained ones. Only what lies between the two is learnt."
        if gains else ""
    )  # fmt: skip
    calls = f", {class_noun(explained)} or the rest," if run.is_multiclass else ""
    interval_note = f", with {percent(run.experiment.evaluate.confidence_level)} intervals by patient bootstrap"
    interval_note = interval_note if results["patients"] >= MIN_PATIENTS else ""
    caption = (
        f"Can the maps be believed? {results['patches']} test patches of {results['patients']} patients: the mean "
        f"probability of the call{calls} while the pixels that support it most are removed (a good map falls fast) and "
        f"while they alone are shown (a good map rises fast). Areas under the two{interval_note}: {areas}.{truth}"
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
            if estimate["value"] is not None:  # no map has positive values
                draw_estimate(axes, estimate, height, color, lw=1.6, mfc=face)
            rows.append({"method": name, "test": f"{test}{suffix}", **estimate})
    axes.axvline(0, color=MUTED, ls=":", lw=1)
    axes.set_xlabel("Share on malignant nuclei,\nless their share of all pixels")
    return rows


def feature_maps(run: Run) -> ReportFigure:
    """Draw feature maps of a patch of each class, from left to right, a row for each layer.

    The table has a row for each map that is drawn: layer, class, channel, height, width, mean and deviation.
    """
    kind = "real" if run.patient_images else "synthetic"
    labels, num_classes = run.explained_patches["labels"], len(run.class_names)
    by_layer = {layer: run.explained_patches[f"{kind}_features_{layer}"][: max(2, NUM_MAPS // num_classes)]
                for layer in LAYERS if f"{kind}_features_{layer}" in run.explained_patches}  # fmt: skip
    channels = max(len(maps) for maps in by_layer.values())
    widths, size = num_classes * (1.3, *[1] * channels), (10.5, 0.82 * len(by_layer) + 0.5)
    figure, grid = blank_grid(len(by_layer), len(widths), size, width_ratios=widths)
    rows = []
    for label, name in enumerate(run.class_names):
        first_column, patch_index = label * (channels + 1), int(np.flatnonzero(labels == label)[0])
        show_patch(grid[0, first_column], run.explained_patches[f"{kind}_images"][patch_index])
        title = capitalize(run.class_texts[label]).replace(" ", "\n" if num_classes > 4 else " ")
        color = text_color(run.class_colors[name])
        grid[0, first_column].set_title(title, fontsize=10 if num_classes <= 4 else 7.5, color=color)
        for axes_row, (layer, maps) in zip(grid, by_layer.items(), strict=True):
            maps = without_edges(maps.astype(np.float32))  # values at the edges would dominate the color scale
            for channel, (channel_maps, axes) in enumerate(zip(maps, axes_row[first_column + 1 :], strict=False)):
                values, limits = channel_maps[label], {"vmin": channel_maps.min(), "vmax": channel_maps.max()}
                axes.imshow(values, cmap="viridis", **limits, interpolation="none")
                shape = {"height": values.shape[0], "width": values.shape[1]}
                row = {"layer": layer, "class": name, "channel": channel, **shape}
                rows.append(row | {"mean": values.mean(), "deviation": values.std()})
    for axes_row, (layer, maps) in zip(grid, by_layer.items(), strict=True):
        text = f"{LAYERS[layer]}\n{maps.shape[2]}x{maps.shape[3]}"
        axes_row[1].annotate(text, (-0.15, 0.5), xycoords="axes fraction", fontsize=7.5, ha="right", va="center")
    source = f"of {run.role_summary('test')}" if run.patient_images else "synthetic"
    all_classes = "all" if run.is_multiclass else "both"
    patches = join_words([f"one {text}" for text in run.class_texts])
    if num_classes > MAX_LISTED_CLASSES:
        patches = "one of each class"
    caption = (
        f"What the layers answer to: {num_classes} patches, {patches} "
        f"({source}), and of some layers of the "
        f"discriminator and of {CLASSIFIER_NAMES[run.explanations['classifier']]} the {channels} channels that "
        f"vary most over the {num_classes if run.is_multiclass else 'two'}. A channel has one scale for {all_classes} "
        "patches; bright is high. Left out: an eighth at every edge, where a layer answers to its padding."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Feature maps", caption)


def error_gallery(run: Run) -> ReportFigure:
    """Draw a row for each class, with its patches that were called another class, the largest errors first."""
    table = tables.largest_errors(run, NUM_ERRORS)
    store_rows = pd.Series(run.store.index.index, run.store.index["id"])
    second = run.class_texts[1]
    num_classes, name = len(run.class_names), run.classifier_names[0]
    row_height = 2.05 if run.is_multiclass else 1.8
    figure, grid = blank_grid(num_classes, NUM_ERRORS, (1.25 * NUM_ERRORS, row_height * num_classes))
    titles = ["not recognised"] * num_classes if run.is_multiclass else [f"called {second}", "missed"]
    for axes_row, text, title, color in zip(grid, run.class_texts, titles, run.class_colors.values(), strict=True):
        errors = table[table["Label"] == text]
        for axes, (patch_id, patient, _, *called, probability) in zip(axes_row, errors.to_numpy(), strict=False):
            below = "\n".join([str(patient), *called, f"{probability:.3f}"])
            show_patch(axes, run.store.images[store_rows[patch_id]], below)
        set_group_title(axes_row[0], f"{capitalize(text)}, {title}", color)
    if run.is_multiclass:
        below_text = "what it was called, and the probability of its true class"
        rule = "the most probable class is called"
    else:
        below_text = f"the probability of {class_noun(run.class_names[1])}"
        rule = f"called {second} from {run.mean_threshold(name):.3f} on"
    caption = (
        f"The {NUM_ERRORS} largest errors of {CLASSIFIER_NAMES[name]} on {run.role_summary('test')}: of "
        f"{'each' if run.is_multiclass else 'either'} class one patch a patient, under it the patient"
        f"{',' if run.is_multiclass else ' and'} {below_text}, mean over {run.seeds_text()}; {rule}. Ids: in the "
        "table of the largest errors."
    )
    return ReportFigure(figure, table, "Where it is most wrong", caption)
