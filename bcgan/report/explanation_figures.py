"""Where the evidence lies and whether the maps can be believed, what the layers answer to, and the worst calls."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.data.records import CLASSES
from bcgan.evaluate.explanations import inside
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import CLASS_COLOURS, CLASSIFIER_COLOURS, CLASSIFIER_NAMES, MUTED, Drawn, head, show_patch

METHODS = {
    "grad_cam": "Grad-CAM", "integrated_gradients": "Integrated\ngradients", "occlusion": "Occlusion",
    "random": "Noise",
}  # fmt: skip
TESTS = {
    "deletion": ("Deletion", "Mean probability\n(lower is better)"),
    "insertion": ("Insertion", "Mean probability\n(higher is better)"),
    "pointing": ("On malignant nuclei,\nmore than chance", "Share of pixels\n(higher is better)"),
    "pointing_untrained": ("The same,\nuntrained network", "Share of pixels\n(what is not learnt)"),
}  # fmt: skip

LAYERS = {
    "block1": "Discriminator\nblock 1", "block2": "Discriminator\nblock 2", "block3": "Discriminator\nblock 3",
    "block4": "Discriminator\nblock 4", "stem_pool": "ResNet\nstem", "joint": "Features\njoined",
    "bottleneck1_add": "Bottleneck 1", "bottleneck2_add": "Bottleneck 2", "bottleneck4_add": "Bottleneck 4",
}  # fmt: skip
WORST = 8  # patients a class in the gallery of errors


def explanations(run: Run) -> Drawn:
    """A column a patch, a row a method."""
    kind = "real" if run.patient_images else "synthetic"
    found = {name.removeprefix(f"{kind}_"): value for name, value in run.explained.items() if name.startswith(kind)}
    shown = [name for name in METHODS if name in found]
    labels, number = run.explained["labels"], len(found["images"])
    figure, grid = plt.subplots(1 + len(shown), number, figsize=(1.15 * number + 1, 1.25 * (1 + len(shown)) + 0.4))
    rows = []
    for column in range(number):
        probability, label = float(found["probability"][column]), CLASSES[labels[column]]
        show_patch(grid[0, column], found["images"][column])
        grid[0, column].set_title(f"{label}\n{probability:.2f}", fontsize=8, color=CLASS_COLOURS[label], loc="center")
        row = {"patch": str(found["id"][column]) if "id" in found else f"synthetic {column}", "label": label,
               "probability": probability}  # fmt: skip
        for line, method in zip(grid[1:, column], shown, strict=True):
            one = found[method][column]
            limit = np.abs(one).max() or 1.0
            line.imshow(one, cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="none")
            line.set(xticks=[], yticks=[])
            sns.despine(ax=line, left=True, bottom=True)
            row |= {f"{method}_for": one.clip(0).sum(), f"{method}_against": -one.clip(max=0).sum()}
        rows.append(row)
    grid[0, 0].set_ylabel("Patch", fontsize=9)
    for line, method in zip(grid[1:, 0], shown, strict=True):
        line.set_ylabel(METHODS[method], fontsize=9)
    patches = (
        f"{number} patches of {run.said('test')}: of each class two of the best calls, then two of the worst"
        if kind == "real" else f"{number} synthetic patches (none of a patient may be shown here)"
    )  # fmt: skip
    caption = (
        f"Where {CLASSIFIER_NAMES[run.explanations['classifier']]} finds its evidence: {patches}. Above each its class "
        "and the probability of malignancy, of this one view (elsewhere: of all orientations); orange speaks for "
        "malignancy, violet against; each map has its own scale."
    )
    return Drawn(figure, pd.DataFrame(rows), "Explanations", caption)


def tests(run: Run) -> Drawn:
    """Deletion, insertion, and where the truth is known the pointing game, with chance beside them."""
    shown = [name for name in METHODS if name in run.explanations]
    kinds = [kind for kind in TESTS if any(kind in run.explanations[name] for name in shown)]
    rows = [
        {"method": name, "test": kind, **run.explanations[name][kind]}
        for kind in kinds
        for name in shown
        if kind in run.explanations[name]
    ]
    table = pd.DataFrame(rows)
    figure, grid = plt.subplots(1, len(kinds), figsize=(2.3 * len(kinds) + 1.4, 2.8), sharey=True, squeeze=False)
    own = CLASSIFIER_COLOURS[run.explanations["classifier"]]
    for axes, kind in zip(grid[0], kinds, strict=True):
        for row in table[table["test"] == kind].itertuples():
            place, colour = shown.index(row.method), MUTED if row.method == "random" else own
            if pd.notna(row.low):
                axes.plot([row.low, row.high], [place, place], color=colour, lw=2)
            axes.plot(row.value, place, "o", ms=5, color=colour)
        if kind.startswith("pointing"):
            axes.axvline(0, color=MUTED, ls=":", lw=1)
            axes.sharex(grid[0, kinds.index("pointing")])
        axes.set_title(TESTS[kind][0], fontsize=9.5)
        axes.set_xlabel(TESTS[kind][1], fontsize=8.5)
        axes.locator_params(axis="x", nbins=4)
    grid[0, 0].set_yticks(range(len(shown)), [METHODS[name] for name in shown])
    grid[0, 0].invert_yaxis()
    sns.despine(figure)
    truth = (
        " On malignant nuclei: the share of the 5 % of pixels that speak most for malignancy that lies there, less the "
        "share of all pixels; new procedural patients, whose nuclei are known. Only what a trained network has beyond "
        "the same maps of an untrained one is learnt."
        if "pointing" in kinds else ""
    )  # fmt: skip
    caption = (
        "Can the maps be believed? Deletion: mean probability of the call while its best pixels are wiped out; "
        f"insertion: while they alone are shown; {run.explanations['patches']} test patches, "
        f"{run.experiment.evaluate.confidence:.0%} intervals by patient bootstrap.{truth}"
    )
    return Drawn(figure, table, "Tests of the explanations", caption)


def feature_maps(run: Run) -> Drawn:
    """A row a layer, of the discriminator first; on the left a benign patch, on the right a malignant one."""
    kind = "real" if run.patient_images else "synthetic"
    found = {layer: run.explained[f"{kind}_features_{layer}"] for layer in LAYERS
             if f"{kind}_features_{layer}" in run.explained}  # fmt: skip
    labels = run.explained["labels"]
    shown = [int(np.flatnonzero(labels == label)[0]) for label in range(2)]
    channels = max(len(maps) for maps in found.values())
    figure, grid = plt.subplots(
        len(found), 2 * (channels + 1), figsize=(10.5, 0.82 * len(found) + 0.5), squeeze=False,
        width_ratios=2 * (1.3, *[1] * channels),
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    rows = []
    for side, place in enumerate(shown):
        first, name = side * (channels + 1), CLASSES[labels[place]]
        show_patch(grid[0, first], run.explained[f"{kind}_images"][place])
        grid[0, first].set_title(name.capitalize(), fontsize=10, color=CLASS_COLOURS[name])
        for line, (layer, maps) in zip(grid, found.items(), strict=True):
            maps = inside(maps.astype(np.float32))  # the edges' values would take the whole scale
            for channel, (both, axes) in enumerate(zip(maps, line[first + 1 :], strict=False)):
                axes.imshow(both[side], cmap="viridis", vmin=both.min(), vmax=both.max(), interpolation="none")
                one = both[side]
                shape = {"height": one.shape[0], "width": one.shape[1]}
                row = {"layer": layer, "class": name, "channel": channel, **shape}
                rows.append(row | {"mean": one.mean(), "deviation": one.std()})
    for line, (layer, maps) in zip(grid, found.items(), strict=True):
        text = f"{LAYERS[layer]}\n{maps.shape[2]}x{maps.shape[3]}"
        line[1].annotate(text, (-0.15, 0.5), xycoords="axes fraction", fontsize=7.5, ha="right", va="center")
    source = f"of {run.said('test')}" if run.patient_images else "synthetic"
    caption = (
        f"What the layers answer to: 2 patches, one benign and one malignant ({source}), and of each layer of the "
        f"discriminator and of {CLASSIFIER_NAMES[run.explanations['classifier']]} the {channels} channels that "
        "vary most over the two. A channel has one scale for both patches; bright is high. Left out: an eighth "
        "at every edge, where a layer answers to its padding."
    )
    return Drawn(figure, pd.DataFrame(rows), "Feature maps", caption)


def error_gallery(run: Run) -> Drawn:
    """Benign patches that were called malignant, and malignant ones that were missed."""
    table = tables.worst_calls(run, WORST)
    place = pd.Series(run.store.index.index, run.store.index["id"])
    figure, grid = plt.subplots(2, WORST, figsize=(1.25 * WORST, 3.6), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, name, title in zip(grid, CLASSES, ("called malignant", "missed"), strict=True):
        for axes, (patch, patient, _, found) in zip(line, table[table["Label"] == name].to_numpy(), strict=False):
            show_patch(axes, run.store.images[place[patch]], f"{patient}\n{found:.3f}")
        head(line[0], f"{name.capitalize()}, {title}", CLASS_COLOURS[name])
    caption = (
        f"The worst calls of {CLASSIFIER_NAMES[run.names[0]]} on {run.said('test')}: of either class one patch a "
        f"patient, under it the patient and the probability of malignancy, mean over {run.seeds()}; called malignant "
        f"from {run.threshold(run.names[0]):.3f} on. Ids: in the table of the worst calls."
    )
    return Drawn(figure, table, "Where it is most wrong", caption)
