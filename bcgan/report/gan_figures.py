"""Pictures of the GAN: synthetic beside real patches, fixed noise over training, convergence (the paper's Fig. 11)."""

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.neighbors import NearestNeighbors

from bcgan.data.records import CLASSES
from bcgan.evaluate.synthetic import thumbnails
from bcgan.gan.features import PICTURED
from bcgan.preprocess.store import GAN_SIZE, at_size
from bcgan.report.data_figures import some_patches
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASS_COLOURS,
    CLASSIFIER_COLOURS,
    CLASSIFIER_NAMES,
    DISCRIMINATOR,
    INK,
    MUTED,
    REAL,
    SYNTHETIC,
    Drawn,
    head,
    show_patch,
)
from bcgan.report.tables import BETTER, GAN_NAMES

COLUMNS = 8
ROWS = 4  # of either class: with COLUMNS 64 patches a side
STEPS_SHOWN = 4
COMPARED = 4000  # patches a side whose neighbours are looked for
QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
SCORES = (
    "kid",
    "fid",
    "coverage",
    "density",
    "class_fidelity",
    "tstr_roc_auc",
    "memorization_rate",
    "kid_efficientnet_lite2",
)
# What a score's floor and ceiling are, where they are not real patients against each other and blurred patches.
ENDS = {
    "class_fidelity": ("chance", "real"),
    "tstr_roc_auc": ("chance", "real"),
    "memorization_rate": ("held-out", "copies"),
}
TITLES = {"tstr_roc_auc": "Train synthetic, test real", "density": "Density (of features)"}
ARROWS = {"lower": " \N{DOWNWARDS ARROW}", "higher": " \N{UPWARDS ARROW}"}


def samples(run: Run) -> Drawn:
    """Real and synthetic patches side by side; synthetic alone where real ones may not be shown."""
    kinds = ["real", "synthetic"] if run.patient_images else ["synthetic"]
    widths = [1] * COLUMNS + ([0.4] + [1] * COLUMNS) * (len(kinds) - 1)  # a gap between the sides
    figure, grid = plt.subplots(
        2 * ROWS, len(widths), figsize=(0.72 * COLUMNS * len(kinds) + 0.4, 6.7), squeeze=False, width_ratios=widths
    )
    for axes in grid.flat:
        axes.set_axis_off()
    rows = []
    for label, name in enumerate(CLASSES):
        for side, kind in enumerate(kinds):
            patches, ids = some_patches(run, label, ROWS * COLUMNS) if kind == "real" else _synthetic(run, label)
            for position, (patch, patch_id) in enumerate(zip(patches, ids, strict=True)):
                row, column = ROWS * label + position // COLUMNS, side * (COLUMNS + 1) + position % COLUMNS
                show_patch(grid[row, column], patch)
                rows.append({"kind": kind, "class": name, "row": row, "column": column, "id": patch_id})
            head(grid[ROWS * label, side * (COLUMNS + 1)], f"{name.capitalize()}, {kind}", CLASS_COLOURS[name])
    caption = (
        f"{' and '.join(kinds).capitalize()} patches by class, {len(rows) // len(kinds)} of each kind. "
        f"{run.learnt_from()} Its generator is a moving average. Not selected by hand."
    )
    return Drawn(figure, pd.DataFrame(rows), f"{' and '.join(kinds).capitalize()} patches", caption)


def evolution(run: Run) -> Drawn:
    """The same noise at some steps of the training."""
    picked = [run.grids[i] for i in np.unique(np.linspace(0, len(run.grids) - 1, STEPS_SHOWN).astype(int))]
    figure, grid = plt.subplots(1, len(picked), figsize=(2.1 * len(picked), 2.3), squeeze=False)
    steps = [int(path.stem.split("_")[1]) for path in picked]
    for axes, path, step in zip(grid[0], picked, steps, strict=True):
        sheet = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        show_patch(axes, sheet[:, : sheet.shape[1] // 2], f"step {step:,}")  # half the columns: the file stays small
    for name, height in zip(CLASSES, (0.75, 0.25), strict=True):
        grid[0, 0].annotate(name.capitalize(), (-0.08, height), xycoords="axes fraction", rotation=90, ha="center",
                            va="center", fontsize=9, color=CLASS_COLOURS[name])  # fmt: skip
    caption = (
        "The same noise vectors during training; upper two rows benign, lower two malignant. Averaged generator. "
        f"{run.learnt_from()}"
    )
    return Drawn(figure, pd.DataFrame({"step": steps}), "The generator during training", caption)


def convergence(run: Run) -> Drawn:
    """Fig. 11: losses and what the discriminator recognises, and the classifiers' validation AUC."""
    log = run.gan_log
    figure, (losses, shares, areas) = plt.subplots(1, 3, figsize=(10.5, 4.2))
    smooth = max(1, len(log) // 20)
    networks = {
        "discriminator_loss": ("Discriminator", DISCRIMINATOR), "generator_loss": ("Generator", SYNTHETIC),
        "projected_discriminator_loss": ("Projected discriminator", CLASSIFIER_COLOURS["efficientnet_lite0"]),
    }  # fmt: skip
    networks = {name: title for name, title in networks.items() if name in log}
    for axes, columns in (
        (losses, networks),
        (shares, {"real_recognised": ("Real patches", REAL), "fake_recognised": ("Synthetic patches", SYNTHETIC)}),
    ):
        for column, (name, colour) in columns.items():
            axes.plot(log["step"], log[column], color=colour, lw=0.5, alpha=0.25)
            axes.plot(log["step"], log[column].rolling(smooth, min_periods=1).mean(), color=colour, label=name)
        axes.set_xlabel("GAN step")
    losses.axhline(np.log(4), color=INK, lw=1, ls=":", label="ln 4: D cannot tell")
    # The first steps are far above the rest, which would have no height left.
    drawn = log.loc[log["step"] > log["step"].max() / 20, list(networks)]
    losses.set(ylabel="Loss (nats)", ylim=(0, 1.1 * max(drawn.max().max(), np.log(4))))
    losses.set_title("GAN losses")
    shares.axhline(0.5, color=INK, lw=1, ls=":")
    shares.set(ylabel="Share recognised", ylim=(0, 1.02))
    shares.set_title("What D recognises")
    for name in run.trained:
        rows = run.logs[run.logs["classifier"] == name]
        mean = rows.groupby("epoch")["validation_roc_auc"].mean()
        areas.plot(mean.index + 1, mean, "o-", ms=3, color=CLASSIFIER_COLOURS[name], label=CLASSIFIER_NAMES[name])
    areas.set(xlabel="Epoch", ylabel="Validation ROC AUC")
    areas.set_title("Classifiers")
    for axes in (losses, shares, areas):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)  # below: nowhere is it free of lines
    areas.xaxis.get_major_locator().set_params(integer=True)
    sns.despine(figure)
    caption = (
        f"Convergence. Left: the GAN's losses ({run.experiment.gan.loss.replace('_', '-')}). Middle: share of real and "
        "synthetic patches that the discriminator D recognises; one half is chance. Thin: single steps, the first of "
        f"them cut off; thick: their rolling mean. Right: validation ROC AUC, mean over {run.seeds()}, "
        f"{run.said('validation')}. {run.learnt_from()} The paper's caption repeats Fig. 9's; its text means this."
    )
    return Drawn(figure, log, "Convergence", caption)


def scores(run: Run) -> Drawn:
    """Every score of the synthetic patches between what it is compared with."""
    figure, grid = plt.subplots(2, 4, figsize=(9.5, 4.4))
    rows = []
    for axes, name in zip(grid.flat, SCORES, strict=True):
        score = run.gan_scores[name]
        points, ends = (("floor", MUTED), ("value", SYNTHETIC), ("ceiling", MUTED)), ENDS.get(name, ("real", "blurred"))
        for place, (key, colour) in enumerate(points if score["value"] is not None else ()):
            axes.plot([place], [score[key]], "o", color=colour, ms=7, clip_on=False, zorder=3)
            top = max(score[key], score["high"] if key == "value" and score["high"] is not None else score[key])
            axes.annotate(f"{score[key]:.3g}", (place, top), (0, 6), textcoords="offset points", ha="center",
                          fontsize=8)  # fmt: skip
        if score["low"] is not None:
            axes.plot([1, 1], [score["low"], score["high"]], color=SYNTHETIC, lw=1.5)
        axes.set_xticks(range(3), [ends[0], "synthetic", ends[1]], fontsize=8)
        axes.margins(x=0.35, y=0.25)
        if axes.dataLim.y0 >= 0:
            axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
        title = TITLES.get(name, GAN_NAMES[name].split(" (")[0].split(", I")[0])
        axes.set_title(title + ARROWS.get(BETTER.get(name, "higher"), ""), fontsize=9)
        rows.append({"score": name, **score})
    sns.despine(figure)
    caption = (
        f"Synthetic patches against real ones, by features of a plain CNN trained on the training patients, in the "
        f"last panel of EfficientNet-Lite2 ({run.gan_scores['kid']['samples']:,} patches a side, half of each class). "
        "Real, held-out: training against validation patients; blurred: training patches that lost their texture; "
        "class fidelity and train synthetic, test real: between chance and what real patches reach. Arrows: which way "
        "is better; memorization_rate: near held-out patches is right. KID and FID are not comparable with values on "
        "Inception's features. Bars: percentiles of subsets (KID), patient bootstrap (ROC AUC)."
    )
    return Drawn(figure, pd.DataFrame(rows), "Scores of the synthetic patches", caption)


def nearest(run: Run) -> Drawn:
    """How near synthetic patches come to training patches, beside how near held-out patients' patches do."""
    rng = np.random.default_rng(run.experiment.seed)
    known, held = (_some(rng, run.store.rows(role)) for role in ("train", "validation"))
    synthetic_rows = _some(rng, np.arange(len(run.synthetic["labels"])))
    heights = (1, 1.1) if run.patient_images else (1,)
    figure = plt.figure(figsize=(10.5, 3 * sum(heights)))
    top, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    rows, closest = [], {}
    for axes, space in zip(top.subplots(1, 2), ("features", "pixels"), strict=True):
        distances, closest[space] = _neighbours(run, space, known, held, synthetic_rows)
        for (name, values), colour in zip(distances.items(), (INK, REAL, SYNTHETIC), strict=True):
            sns.ecdfplot(values, ax=axes, color=colour, label=name)
            quantiles = zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
            rows += [{"space": space, "side": name, "quantile": q, "distance": value} for q, value in quantiles]
        if space == "features":
            order = np.argsort(distances["Synthetic patches"])[:COLUMNS]
        unit = "channel means" if space == "features" else "brightness 0 to 1"
        axes.set(xlabel=f"Distance to the nearest training patch, {space}\n(Euclidean, {unit})",
                 ylabel="Share of patches", xlim=(0, None))  # fmt: skip
    top.axes[0].legend(loc="lower right")
    for part in below:
        pictures = {"Synthetic": run.synthetic["images"][synthetic_rows[order]]} | {
            f"Nearest\nby {space}": run.store.images[places[order]] for space, places in closest.items()
        }
        for line, (name, patches) in zip(part.subplots(len(pictures), COLUMNS), pictures.items(), strict=True):
            for axes, patch in zip(line, patches, strict=False):
                show_patch(axes, patch)
            line[0].set_ylabel(name, fontsize=9)
    nearest_text = (
        f" Below: the {len(order)} synthetic patches that come nearest to a training patch by features, and those."
        if below else ""
    )  # fmt: skip
    caption = (
        f"Are training patches copied? Distances of {len(synthetic_rows):,} synthetic patches to the nearest of "
        f"{len(known):,} training patches, of {len(held):,} patches of validation patients, and of training patches to "
        f"each other, as cumulative shares; in the means of the discriminator's {PICTURED} and in pixels at half size. "
        f"Copies would begin far left of the other curves; a steeper curve means less variety.{nearest_text}"
    )
    return Drawn(figure, pd.DataFrame(rows), "Nearest training patches", caption)


def _neighbours(
    run: Run, space: str, known: np.ndarray, held: np.ndarray, synthetic_rows: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """{side: distance of each patch to the nearest training patch}, and which that is for each synthetic one."""
    if space == "features":
        ours, held_out, synthetic = run.pooled[known], run.pooled[held], run.synthetic[PICTURED][synthetic_rows]
    else:
        real = (at_size(run.store.images[rows], GAN_SIZE) for rows in (known, held))
        ours, held_out, synthetic = map(thumbnails, (*real, run.synthetic["images"][synthetic_rows]))
    index = NearestNeighbors(n_neighbors=2).fit(ours)
    distance, place = index.kneighbors(synthetic, 1)
    distances = {
        "Training patches": index.kneighbors(ours)[0][:, 1],
        "Held-out patients": index.kneighbors(held_out, 1)[0][:, 0],
        "Synthetic patches": distance[:, 0],
    }
    return distances, known[place[:, 0]]


def _some(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    return np.sort(rng.permutation(rows)[:COMPARED])


def _synthetic(run: Run, label: int) -> tuple[np.ndarray, list[str]]:
    rows = np.flatnonzero(run.synthetic["labels"] == label)[: ROWS * COLUMNS]
    return run.synthetic["images"][rows], [f"synthetic {row}" for row in rows]
