"""Where the evidence lies, and whether the maps can be believed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan.data.builders import CLASSES
from bcgan.report.run import Run
from bcgan.report.style import CLASS_COLOURS, CLASSIFIER_NAMES, MUTED, Drawn, show_patch

METHODS = {
    "grad_cam": "Grad-CAM", "integrated_gradients": "Integrated\ngradients", "occlusion": "Occlusion",
    "random": "Noise",
}  # fmt: skip
TESTS = {
    "deletion": ("Deletion", "lower is better"), "insertion": ("Insertion", "higher is better"),
    "pointing": ("On malignant nuclei,\nmore than chance", "higher is better"),
    "pointing_untrained": ("The same,\nuntrained network", "nothing to find"),
}  # fmt: skip


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
        "test patches, of each class two of the best calls, then two of the worst"
        if kind == "real" else "synthetic patches (none of a patient may be shown here)"
    )  # fmt: skip
    caption = (
        f"Where {CLASSIFIER_NAMES[run.explanations['classifier']]} finds its evidence: {patches}. Above each its class "
        "and the probability of malignancy; orange speaks for malignancy, violet against; each map has its own scale."
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
    figure, grid = plt.subplots(1, len(kinds), figsize=(2.3 * len(kinds) + 1.4, 2.6), sharey=True, squeeze=False)
    for axes, kind in zip(grid[0], kinds, strict=True):
        for row in table[table["test"] == kind].itertuples():
            place, colour = shown.index(row.method), MUTED if row.method == "random" else "#009E73"
            if pd.notna(row.low):
                axes.plot([row.low, row.high], [place, place], color=colour, lw=2)
            axes.plot(row.value, place, "o", ms=5, color=colour)
        if kind.startswith("pointing"):
            axes.axvline(0, color=MUTED, ls=":", lw=1)
        axes.set_title(TESTS[kind][0], fontsize=9.5)
        axes.set_xlabel(TESTS[kind][1], fontsize=8.5)
        axes.locator_params(axis="x", nbins=4)
    grid[0, 0].set_yticks(range(len(shown)), [METHODS[name] for name in shown])
    grid[0, 0].invert_yaxis()
    sns.despine(figure)
    truth = (
        " On malignant nuclei: the share of the 5 % of pixels that speak most for malignancy that lies there, less the "
        "share of all pixels; new procedural patients, whose nuclei are known."
        if "pointing" in kinds else ""
    )  # fmt: skip
    caption = (
        "Can the maps be believed? Deletion: mean probability of the call while its best pixels are wiped out; "
        f"insertion: while they alone are shown; {run.explanations['patches']} test patches, "
        f"{run.experiment.evaluate.confidence:.0%} intervals by patient bootstrap.{truth}"
    )
    return Drawn(figure, table, "Tests of the explanations", caption)
