"""Explanations and their tests, feature maps of layers, and the largest errors."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.data.records import CLASSES
from bcgan.evaluate.explanations import LEVELS, TRUTHS, without_edges
from bcgan.evaluate.intervals import describe
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASS_COLOURS,
    CLASSIFIER_COLOURS,
    CLASSIFIER_NAMES,
    MUTED,
    TOWARDS,
    Drawn,
    head,
    show_patch,
)

METHODS = {
    "grad_cam": "Grad-CAM", "integrated_gradients": "Integrated\ngradients", "occlusion": "Occlusion",
    "random_map": "Random map",
}  # fmt: skip
LINES = {"grad_cam": "-", "integrated_gradients": "--", "occlusion": "-.", "random_map": ":"}
CURVES = {"deletion": ("Deletion", "wiped out"), "insertion": ("Insertion", "shown")}
GAINS = {"top5_hit_rate": "Strongest 5 %\nof pixels", "energy_pointing_game": "All that supports\nmalignancy"}

LAYERS = {
    "block1": "Discriminator\nblock 1", "block2": "Discriminator\nblock 2", "block3": "Discriminator\nblock 3",
    "block4": "Discriminator\nblock 4", "stem_pool": "ResNet\nstem", "joint": "Features\njoined",
    "bottleneck1_add": "Bottleneck 1", "bottleneck2_add": "Bottleneck 2", "bottleneck4_add": "Bottleneck 4",
}  # fmt: skip
WORST = 8  # patients a class in the gallery of errors


def explanations(run: Run) -> Drawn:
    """Draw one column per patch and one row per method."""
    kind = "real" if run.patient_images else "synthetic"
    arrays = {name.removeprefix(f"{kind}_"): value for name, value in run.explained.items() if name.startswith(kind)}
    methods = [name for name in METHODS if name in arrays]
    labels, number = run.explained["labels"], len(arrays["images"])
    figure, grid = plt.subplots(1 + len(methods), number, figsize=(1.15 * number + 1, 1.25 * (1 + len(methods)) + 0.4))
    rows, name = [], run.explanations["classifier"]
    threshold = run.metrics[name]["thresholds"][str(run.explanations["seed"])]
    for column in range(number):
        probability, label = float(arrays["probability"][column]), CLASSES[labels[column]]
        wrong = (probability >= threshold) != labels[column]
        show_patch(grid[0, column], arrays["images"][column])
        title = f"{label}\n{probability:.2f}, {'wrong' if wrong else 'right'}"
        grid[0, column].set_title(title, fontsize=8, color=CLASS_COLOURS[label], loc="center")
        row = {"patch": str(arrays["id"][column]) if "id" in arrays else f"synthetic {column}", "label": label,
               "probability": probability, "right": not wrong}  # fmt: skip
        for line, method in zip(grid[1:, column], methods, strict=True):
            map_values = arrays[method][column]
            limit = np.abs(map_values).max() or 1.0
            line.imshow(map_values, cmap=TOWARDS, vmin=-limit, vmax=limit, interpolation="none")
            line.set(xticks=[], yticks=[])
            sns.despine(ax=line, left=True, bottom=True)
            row |= {f"{method}_for": map_values.clip(0).sum(), f"{method}_against": -map_values.clip(max=0).sum()}
        rows.append(row)
    grid[0, 0].set_ylabel("Patch", fontsize=9)
    for line, method in zip(grid[1:, 0], methods, strict=True):
        line.set_ylabel(METHODS[method], fontsize=9)
    patches = (
        f"{number} patches of {run.said('test')}"
        if kind == "real" else f"{number} synthetic patches (none of a patient may be shown here)"
    )  # fmt: skip
    caption = (
        f"Where {CLASSIFIER_NAMES[name]} finds its evidence: {patches}, of each class the best calls, then "
        "the worst. Above each the class, the probability of malignancy, of this one view (elsewhere: of all "
        f"orientations), and whether the call at {threshold:.3f} is right; orange supports malignancy, blue "
        "against; each map has its own scale."
    )
    return Drawn(figure, pd.DataFrame(rows), "Explanations", caption)


def tests(run: Run) -> Drawn:
    """Deletion and insertion, and where the truth is known the pointing game, with chance beside them."""
    results = run.explanations
    methods = [name for name in METHODS if name in results]
    gains = [kind for kind in GAINS if kind in results[methods[0]]]
    colours = {name: MUTED if name == "random_map" else CLASSIFIER_COLOURS[results["classifier"]] for name in methods}
    widths = [1.2] * len(CURVES) + [1.0] * len(gains)
    figure, grid = plt.subplots(1, len(widths), figsize=(2.3 * sum(widths) + 1, 3.1), width_ratios=widths)
    rows = []
    for axes, (kind, (title, verb)) in zip(grid, CURVES.items(), strict=False):
        for name in methods:
            curve = results[name][kind]["curve"]
            label = METHODS[name].replace("\n", " ")
            axes.plot(LEVELS, curve, ls=LINES[name], lw=1.6, color=colours[name], label=label)
            points = zip(LEVELS, curve, strict=True)
            rows += [{"method": name, "test": kind, "share": level, "value": value} for level, value in points]
            area = {key: results[name][kind][key] for key in ("value", "low", "high")}
            rows.append({"method": name, "test": f"{kind}_area", **area})
        axes.set_title(title, fontsize=9.5)
        axes.set(xlabel=f"Share of pixels {verb}", ylabel="Mean probability of the call", ylim=(0, 1.02))
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=7.5, loc="outside lower center", ncol=len(methods))
    for axes, kind in zip(grid[len(CURVES) :], gains, strict=True):
        for place, name in enumerate(methods):
            for suffix, height, face in (("", place - 0.16, colours[name]), ("_untrained", place + 0.16, "none")):
                estimate = results[name][f"{kind}{suffix}"]
                if estimate["low"] is not None:
                    axes.plot([estimate["low"], estimate["high"]], [height, height], color=colours[name], lw=1.6)
                axes.plot(estimate["value"], height, "o", ms=5, color=colours[name], mfc=face)
                rows.append({"method": name, "test": f"{kind}{suffix}", **estimate})
        axes.axvline(0, color=MUTED, ls=":", lw=1)
        axes.set_yticks(range(len(methods)), [METHODS[name] if kind == gains[0] else "" for name in methods])
        axes.invert_yaxis()
        axes.set_title(GAINS[kind], fontsize=9.5)
        axes.set_xlabel("Share on malignant nuclei,\nless their share of all pixels")
    sns.despine(figure)
    areas = "; ".join(
        f"{METHODS[name].replace(chr(10), ' ')} " + " and ".join(describe(results[name][kind]) for kind in CURVES)
        for name in methods
    )
    truth = (
        " On the right, how much of what supports malignancy lies on malignant nuclei, on "
        f"{TRUTHS} patches of new procedural patients, whose nuclei are known; filled: the trained network, hollow: "
        "the same network untrained. Only what lies between the two is learnt."
        if gains else ""
    )  # fmt: skip
    caption = (
        f"Can the maps be believed? {results['patches']} test patches of {results['patients']} patients: the mean "
        "probability of the call while the pixels that support it most are removed (a good map falls fast) and "
        "while they alone are shown (a good map rises fast). Areas under the two, with "
        f"{run.experiment.evaluate.confidence_level:.0%} intervals by patient bootstrap: {areas}.{truth}"
    )
    return Drawn(figure, pd.DataFrame(rows), "Tests of the explanations", caption)


def feature_maps(run: Run) -> Drawn:
    """A row a layer, of the discriminator first; on the left a benign patch, on the right a malignant one."""
    kind = "real" if run.patient_images else "synthetic"
    by_layer = {layer: run.explained[f"{kind}_features_{layer}"] for layer in LAYERS
             if f"{kind}_features_{layer}" in run.explained}  # fmt: skip
    labels = run.explained["labels"]
    columns = [int(np.flatnonzero(labels == label)[0]) for label in range(2)]
    channels = max(len(maps) for maps in by_layer.values())
    figure, grid = plt.subplots(
        len(by_layer), 2 * (channels + 1), figsize=(10.5, 0.82 * len(by_layer) + 0.5), squeeze=False,
        width_ratios=2 * (1.3, *[1] * channels),
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    rows = []
    for side, place in enumerate(columns):
        first, name = side * (channels + 1), CLASSES[labels[place]]
        show_patch(grid[0, first], run.explained[f"{kind}_images"][place])
        grid[0, first].set_title(name.capitalize(), fontsize=10, color=CLASS_COLOURS[name])
        for line, (layer, maps) in zip(grid, by_layer.items(), strict=True):
            maps = without_edges(maps.astype(np.float32))  # the edges' values would take the whole scale
            for channel, (both, axes) in enumerate(zip(maps, line[first + 1 :], strict=False)):
                axes.imshow(both[side], cmap="viridis", vmin=both.min(), vmax=both.max(), interpolation="none")
                values = both[side]
                shape = {"height": values.shape[0], "width": values.shape[1]}
                row = {"layer": layer, "class": name, "channel": channel, **shape}
                rows.append(row | {"mean": values.mean(), "deviation": values.std()})
    for line, (layer, maps) in zip(grid, by_layer.items(), strict=True):
        text = f"{LAYERS[layer]}\n{maps.shape[2]}x{maps.shape[3]}"
        line[1].annotate(text, (-0.15, 0.5), xycoords="axes fraction", fontsize=7.5, ha="right", va="center")
    source = f"of {run.said('test')}" if run.patient_images else "synthetic"
    caption = (
        f"What the layers answer to: 2 patches, one benign and one malignant ({source}), and of some layers of the "
        f"discriminator and of {CLASSIFIER_NAMES[run.explanations['classifier']]} the {channels} channels that "
        "vary most over the two. A channel has one scale for both patches; bright is high. Left out: an eighth "
        "at every edge, where a layer answers to its padding."
    )
    return Drawn(figure, pd.DataFrame(rows), "Feature maps", caption)


def error_gallery(run: Run) -> Drawn:
    """Benign patches that were called malignant, and malignant ones that were missed."""
    table = tables.largest_errors(run, WORST)
    place = pd.Series(run.store.index.index, run.store.index["id"])
    figure, grid = plt.subplots(2, WORST, figsize=(1.25 * WORST, 3.6), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, name, title in zip(grid, CLASSES, ("called malignant", "missed"), strict=True):
        for axes, (patch, patient, _, probability) in zip(line, table[table["Label"] == name].to_numpy(), strict=False):
            show_patch(axes, run.store.images[place[patch]], f"{patient}\n{probability:.3f}")
        head(line[0], f"{name.capitalize()}, {title}", CLASS_COLOURS[name])
    caption = (
        f"The largest errors of {CLASSIFIER_NAMES[run.names[0]]} on {run.said('test')}: of either class one patch a "
        f"patient, under it the patient and the probability of malignancy, mean over {run.seeds()}; called malignant "
        f"from {run.threshold(run.names[0]):.3f} on. Ids: in the table of the largest errors."
    )
    return Drawn(figure, table, "Where it is most wrong", caption)
