"""Figures of the GAN: synthetic and real patches, fixed noise during training, convergence (the paper's Fig. 11)."""

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import SubFigure

from bcgan.classes import capitalize
from bcgan.gan import distances
from bcgan.gan.features import COMPARED_BLOCK
from bcgan.gan.watch import GRID_CELLS, compute_layouts
from bcgan.report.data_figures import select_patches
from bcgan.report.gan_tables import BETTER, GAN_NAMES
from bcgan.report.run import Run
from bcgan.report.style import (
    CLASSIFIER_COLORS,
    CLASSIFIER_NAMES,
    DISCRIMINATOR,
    INK,
    MUTED,
    REAL,
    SYNTHETIC,
    ReportFigure,
    blank_grid,
    rows_per_class,
    set_group_title,
    show_patch,
    text_color,
)
from bcgan.report.wording import join_words

COLUMNS = 8
GALLERY_ID = "sample"  # of patches in the SVG: sample-<kind>-<label>-<index>, which the page's filter reads
ROWS = 4  # of each class, at most: of two classes 64 patches of a kind
STEPS_SHOWN = 4
CUMULATIVE_POINTS = 201
# Of rows of pixels and of layouts, which are compared in all orientations.
SIDE_BY_SPACE = {"features": None, "pixels": distances.PIXEL_SIDE, "layout": GRID_CELLS}
NUM_COMPARED = 4000  # patches of each set whose nearest training patch is searched for
QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
SETS = {"Training patches": INK, "Held-out patients": REAL, "Synthetic patches": SYNTHETIC}  # colors of their curves
SCORES = (
    "kid", "fid", "coverage", "density", "class_fidelity", "tstr_roc_auc", "memorization_rate",
    "kid_efficientnet_lite2",
)  # fmt: skip
# What a score's floor and ceiling are, where they are not real patients compared with each other and blurred patches.
REFERENCE_NAMES = {
    "class_fidelity": ("chance", "real"),
    "tstr_roc_auc": ("chance", "real"),
    "memorization_rate": ("held-out", "copies"),
}
TITLES = {"tstr_roc_auc": "Train synthetic, test real", "density": "Density (of features)"}
ARROWS = {"lower": " \N{DOWNWARDS ARROW}", "higher": " \N{UPWARDS ARROW}"}


def samples(run: Run) -> ReportFigure:
    """Draw real and synthetic patches side by side; synthetic ones only if real ones may not be shown."""
    kinds = ["real", "synthetic"] if run.patient_images else ["synthetic"]
    widths = [1] * COLUMNS + ([0.4] + [1] * COLUMNS) * (len(kinds) - 1)  # a gap between the kinds
    class_rows = rows_per_class(len(run.class_names), ROWS)
    num_rows = class_rows * len(run.class_names)
    size = 0.72 * COLUMNS * len(kinds) + 0.4, 0.8375 * num_rows
    figure, grid = blank_grid(num_rows, len(widths), size, width_ratios=widths)
    rows = []
    for label, name in enumerate(run.class_names):
        for kind_index, kind in enumerate(kinds):
            first_row, first_column = class_rows * label, kind_index * (COLUMNS + 1)
            if kind == "real":
                patches, ids = select_patches(run, label, class_rows * COLUMNS)
            else:
                patches, ids = _first_synthetic_patches(run, label, class_rows * COLUMNS)
            for index, (patch, patch_id) in enumerate(zip(patches, ids, strict=True)):
                row, column = first_row + index // COLUMNS, first_column + index % COLUMNS
                show_patch(grid[row, column], patch)
                grid[row, column].set_gid(f"{GALLERY_ID}-{kind}-{label}-{index}")
                rows.append({"kind": kind, "class": name, "row": row, "column": column, "id": patch_id})
            title = f"{capitalize(run.class_texts[label])}, {kind}"
            set_group_title(grid[first_row, first_column], title, run.class_colors[name])
    counts = [f"{sum(row['kind'] == kind for row in rows):,} {kind}" for kind in kinds]
    caption = (
        f"{' and '.join(kinds).capitalize()} patches by class, {join_words(counts)}. "
        f"{run.gan_training_summary()} Its generator is a moving average. Not selected by hand."
    )
    return ReportFigure(figure, pd.DataFrame(rows), f"{' and '.join(kinds).capitalize()} patches", caption)


def evolution(run: Run) -> ReportFigure:
    """Draw synthetic patches of the same noise at some steps of the training."""
    indices = np.unique(np.linspace(0, len(run.sample_grids) - 1, STEPS_SHOWN).astype(int))
    paths = [run.sample_grids[index] for index in indices]
    num_classes = len(run.class_names)
    size = (2.1 * len(paths) + (1.4 if run.is_multiclass else 0), 1.15 * num_classes)
    figure, grid = plt.subplots(1, len(paths), figsize=size, squeeze=False)
    steps = [int(path.stem.split("_")[1]) for path in paths]
    for axes, path, step in zip(grid[0], paths, steps, strict=True):
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        show_patch(axes, picture[:, : picture.shape[1] // 2], f"step {step:,}")  # half the columns, for a small file
    # Sideways two names fit beside the picture; those of more classes are often longer than two rows of patches.
    placement = {"rotation": 0, "ha": "right"} if run.is_multiclass else {"rotation": 90, "ha": "center"}
    for label, (name, text) in enumerate(zip(run.class_names, run.class_texts, strict=True)):
        height = (num_classes - label - 0.5) / num_classes
        title = f"{capitalize(text)},\nsynthetic"
        grid[0, 0].annotate(title, (-0.08, height), xycoords="axes fraction", va="center", fontsize=9,
                            color=text_color(run.class_colors[name]), **placement)  # fmt: skip
    first, second, *_ = run.class_texts
    rows_text = (
        f"from the top, two rows each of {join_words(run.class_texts)} patches"
        if run.is_multiclass else f"upper two rows {first}, lower two {second}"
    )  # fmt: skip
    caption = f"The same noise vectors during training; {rows_text}. Averaged generator. {run.gan_training_summary()}"
    return ReportFigure(figure, pd.DataFrame({"step": steps}), "The generator during training", caption)


def convergence(run: Run) -> ReportFigure:
    """Draw GAN losses, what the discriminator recognizes, and the classifiers' validation AUC: the paper's Fig. 11."""
    log = run.gan_log
    figure, (losses, shares, areas) = plt.subplots(1, 3, figsize=(10.5, 4.2))
    window = max(1, len(log) // 20)
    networks = {
        "discriminator_loss": ("Discriminator", DISCRIMINATOR), "generator_loss": ("Generator", SYNTHETIC),
        "projected_discriminator_loss": ("Projected discriminator", CLASSIFIER_COLORS["efficientnet_lite0"]),
    }  # fmt: skip
    recognized = {"real_recognised": ("Real patches", REAL), "fake_recognised": ("Synthetic patches", SYNTHETIC)}
    networks = {name: title for name, title in networks.items() if name in log}
    for axes, columns in (
        (losses, networks),
        (shares, recognized),
    ):
        for column, (name, color) in columns.items():
            axes.plot(log["step"], log[column], color=color, lw=0.5, alpha=0.25)
            axes.plot(log["step"], log[column].rolling(window, min_periods=1).mean(), color=color, label=name)
        axes.set_xlabel("GAN step")
    losses.axhline(np.log(4), color=INK, lw=1, ls=":", label="ln 4: D at chance")
    # The losses of the first steps are so high that they would flatten the rest.
    later_losses = log.loc[log["step"] > log["step"].max() / 20, list(networks)]
    losses.set(ylabel="Loss (nats)", ylim=(0, 1.1 * max(later_losses.max().max(), np.log(4))))
    losses.set_title("GAN losses")
    shares.axhline(0.5, color=INK, lw=1, ls=":")
    shares.set(ylabel="Share recognised", ylim=(0, 1.02))
    shares.set_title("What D recognises")
    for name in run.trained_names:
        rows = run.training_logs[run.training_logs["classifier"] == name]
        mean = rows.groupby("epoch")["validation_roc_auc"].mean()
        areas.plot(mean.index + 1, mean, "o-", ms=3, color=CLASSIFIER_COLORS[name], label=CLASSIFIER_NAMES[name])
    areas.set(xlabel="Epoch", ylabel="Validation ROC AUC")
    areas.set_title("Classifiers")
    for axes in (losses, shares, areas):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)  # below: the axes are full of lines
    areas.xaxis.get_major_locator().set_params(integer=True)
    sns.despine(figure)
    caption = (
        f"Convergence. Left: the GAN's losses ({run.experiment.gan.loss.replace('_', '-')}). Middle: share of "
        "real and synthetic patches that the discriminator D recognises; one half is chance. Thin: single steps, the "
        f"first of them cut off; thick: their rolling mean. Right: validation ROC AUC, mean over {run.seeds_text()}, "
        f"{run.role_summary('validation')}. {run.gan_training_summary()} The paper's caption repeats Fig. 9's; its "
        "text means this."
    )
    return ReportFigure(figure, log, "Convergence", caption)


def scores(run: Run) -> ReportFigure:
    """Draw every score of the synthetic patches between its floor and its ceiling."""
    figure, grid = plt.subplots(2, 4, figsize=(9.5, 4.4))
    rows = []
    for axes, name in zip(grid.flat, SCORES, strict=True):
        score = run.gan_scores[name]
        points = (("floor", MUTED), ("value", SYNTHETIC), ("ceiling", MUTED))
        for x, (key, color) in enumerate(points if score["value"] is not None else ()):
            axes.plot([x], [score[key]], "o", color=color, ms=7, clip_on=False, zorder=3)
            has_interval = key == "value" and score["high"] is not None
            top = max(score[key], score["high"]) if has_interval else score[key]
            axes.annotate(f"{score[key]:.3g}", (x, top), (0, 6), textcoords="offset points", ha="center",
                          fontsize=8)  # fmt: skip
        if score["low"] is not None:
            axes.plot([1, 1], [score["low"], score["high"]], color=SYNTHETIC, lw=1.5)
        floor_name, ceiling_name = REFERENCE_NAMES.get(name, ("real", "blurred"))
        axes.set_xticks(range(3), [floor_name, "synthetic", ceiling_name], fontsize=8)
        axes.margins(x=0.35, y=0.25)
        if axes.dataLim.y0 >= 0:
            axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
        title = TITLES.get(name, GAN_NAMES[name].split(" (")[0].split(", I")[0])
        axes.set_title(title + ARROWS.get(BETTER.get(name, "higher"), ""), fontsize=9)
        rows.append({"score": name, **score})
    sns.despine(figure)
    share = "as many" if run.is_multiclass else "half"
    caption = (
        f"Synthetic patches against real ones, by features of a plain CNN trained on the training patients, in the "
        f"last panel of EfficientNet-Lite2 ({run.gan_scores['kid']['samples']:,} patches a side, {share} of each "
        "class). Real, held-out: training against validation patients; blurred: training patches that lost their "
        "texture; class fidelity and train synthetic, test real: between chance and what real patches reach. Arrows: "
        "which way is better; memorization_rate: near held-out patches is right. KID and FID are not comparable with "
        "values on Inception's features. Bars, if drawn: percentiles of subsets (KID), patient bootstrap (ROC AUC)."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Scores of the synthetic patches", caption)


def nearest(run: Run) -> ReportFigure:
    """Draw the distances of synthetic and of held-out patches to the nearest training patch: are patches copied?"""
    rng = np.random.default_rng(run.experiment.seed)
    train_rows, validation_rows = (_subsample(rng, run.store.role_indices(role)) for role in ("train", "validation"))
    synthetic_rows = _subsample(rng, np.arange(len(run.synthetic["labels"])))
    sets = dict(zip(SETS, (train_rows, validation_rows, synthetic_rows), strict=True))
    heights = (1, 1.1) if run.patient_images else (1,)
    figure = plt.figure(figsize=(10.5, 3 * sum(heights)))
    top, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    rows, nearest_rows = [], {}
    for axes, space in zip(top.subplots(1, 2), ("features", "pixels"), strict=True):
        nearest_distances, nearest_rows[space] = _nearest_training_patches(run, space, sets)
        for name, values in nearest_distances.items():
            rows += _draw_cumulative(axes, space, name, values)
        if space == "features":
            closest = np.argsort(nearest_distances["Synthetic patches"])[:COLUMNS]  # those that are shown below
        unit = "channel means" if space == "features" else "brightness 0 to 1"
        axes.set(xlabel=f"Distance to the nearest training patch, {space}\n(Euclidean, {unit})",
                 ylabel="Share of patches", xlim=(0, None))  # fmt: skip
    top.axes[0].legend(loc="lower right")
    for subfigure in below:
        pictures = {"Synthetic": run.synthetic["images"][synthetic_rows[closest]]} | {
            f"Nearest\nby {space}": run.store.images[indices[closest]] for space, indices in nearest_rows.items()
        }
        grid = subfigure.subplots(len(pictures), COLUMNS)
        for axes_row, (name, patches) in zip(grid, pictures.items(), strict=True):
            for axes, patch in zip(axes_row, patches, strict=False):
                show_patch(axes, patch)
            axes_row[0].set_ylabel(name, fontsize=9)
    nearest_text = (
        f" Below: the {len(closest)} synthetic patches that come nearest to a training patch by features, and those."
        if below else ""
    )  # fmt: skip
    caption = (
        f"Are training patches copied? Distances of {len(synthetic_rows):,} synthetic patches to the nearest of "
        f"{len(train_rows):,} training patches, of {len(validation_rows):,} patches of validation patients, and of "
        "training patches to each other, as cumulative shares; in the means of the discriminator's "
        f"{COMPARED_BLOCK} and in pixels, reduced to {distances.PIXEL_SIDE} a side, in any orientation. Copies would "
        f"begin far left of the other curves; a steeper curve means less variety.{nearest_text}"
    )
    return ReportFigure(figure, pd.DataFrame(rows), "Nearest training patches", caption)


def _draw_cumulative(axes, space: str, name: str, values: np.ndarray) -> list[dict]:
    """Draw cumulative shares of a set's distances, and return their QUANTILES as rows of the figure's table.

    The shares are drawn at CUMULATIVE_POINTS: single steps of thousands could not be seen.
    """
    shares = np.linspace(0, 1, min(CUMULATIVE_POINTS, len(values)))
    axes.plot(np.quantile(values, shares), shares, color=SETS[name], label=name)
    return [
        {"space": space, "side": name, "quantile": quantile, "distance": distance}
        for quantile, distance in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    ]


def _nearest_training_patches(
    run: Run, space: str, sets: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return {set: distances to the nearest training patch}, and that of each synthetic patch as a row of the store.

    Args:
        space: `features` or `pixels`, in which distances are Euclidean.
        sets: Rows of the store by name of SETS, or indices of synthetic patches.
    """
    train, validation, synthetic = (_represent(run, name, rows, space) for name, rows in sets.items())
    side, references = SIDE_BY_SPACE[space], distances.prepare(train)
    neighbors_by_set = (
        distances.nearest(train, references, side, own_rows=np.arange(len(train))),
        *(distances.nearest(rows, references, side) for rows in (validation, synthetic)),
    )
    by_set = {name: neighbors.distances for name, neighbors in zip(SETS, neighbors_by_set, strict=True)}
    return by_set, next(iter(sets.values()))[neighbors_by_set[-1].indices]


def can_measure_repetition(run: Run) -> bool:
    """Return whether every set of patches has at least two of each class."""
    labels = [run.store.index["label"].to_numpy()[run.store.role_indices(role)] for role in ("train", "validation")]
    return all(
        np.bincount(part, minlength=len(run.class_names)).min() > 1 for part in (*labels, run.synthetic["labels"])
    )


def repetition(run: Run) -> ReportFigure:
    """Draw the distances of patches to the nearest other one of their class: does the generator repeat itself?"""
    rng, labels = np.random.default_rng(run.experiment.seed), run.store.index["label"].to_numpy()
    rows_of = {
        "Training patches": (run.store.role_indices("train"), labels),
        "Held-out patients": (run.store.role_indices("validation"), labels),
        "Synthetic patches": (np.arange(len(run.synthetic["labels"])), run.synthetic["labels"]),
    }
    # As many of each class and set: among more patches, the nearest is nearer.
    count = min(NUM_COMPARED, *(np.bincount(labels_of[rows]).min() for rows, labels_of in rows_of.values()))
    sets = {name: _rows_per_class(rng, *rows, count) for name, rows in rows_of.items()}
    figure = plt.figure(figsize=(10.5, 6))
    top, below = figure.subfigures(2, 1, height_ratios=(1.3, 1))
    table, closest = [], {}
    for axes, space in zip(top.subplots(1, 2), ("features", "layout"), strict=True):
        for name, by_class in sets.items():
            represented = [_represent(run, name, rows, space) for rows in by_class]
            neighbors_by_class = [
                distances.nearest(values, values, SIDE_BY_SPACE[space], own_rows=np.arange(len(values)))
                for values in represented
            ]
            nearest_distances = np.concatenate([pairs.distances for pairs in neighbors_by_class])
            table += _draw_cumulative(axes, space, name, nearest_distances)
        # The last of the sets is the synthetic one.
        neighbors = np.concatenate([
            rows[pairs.indices] for rows, pairs in zip(by_class, neighbors_by_class, strict=True)
        ])  # fmt: skip
        closest[space] = _closest_pairs(np.concatenate(by_class), neighbors, nearest_distances)
        unit = "Euclidean, channel means" if space == "features" else "of the brightness of a 5x5 grid, 0 if alike"
        axes.set(
            xlabel=f"Distance to the nearest other patch of the class,\n{space} ({unit})", ylabel="Share of patches",
            xlim=(0, None),
        )  # fmt: skip
    top.axes[0].legend(loc="lower right")
    _draw_pairs(below, run.synthetic["images"], closest)
    caption = (
        f"Does the generator repeat itself? Distances of {count:,} synthetic patches of each class to the nearest "
        "other one of the class, and the same of training patches and of patches of validation patients, as cumulative "
        f"shares; in the means of the discriminator's {COMPARED_BLOCK}, and between layouts in any orientation. A "
        "curve that begins far left of the others means repetition, one that is left of them as a whole less variety. "
        f"Below: the {COLUMNS // 2} pairs of synthetic patches that are nearest to each other by features, and by "
        "layout; the two may be turned against each other."
    )
    return ReportFigure(figure, pd.DataFrame(table), "Repetition", caption)


def _draw_pairs(figure: SubFigure, images: np.ndarray, pairs: dict[str, list[tuple[int, int]]]) -> None:
    """Draw pairs of patches, one above the other; `pairs` are {space in which they are near: rows of `images`}."""
    columns = [(space, rank) for space in pairs for rank in range(COLUMNS // 2)]
    for axes_pair, (space, rank) in zip(figure.subplots(2, COLUMNS).T, columns, strict=True):
        for axes in axes_pair:
            axes.axis("off")
        for axes, row in zip(axes_pair, pairs[space][rank] if rank < len(pairs[space]) else (), strict=False):
            show_patch(axes, images[row])
        axes_pair[0].set_title(f"By {space}, pair {rank + 1}", fontsize=8)


def _rows_per_class(rng: np.random.Generator, rows: np.ndarray, labels: np.ndarray, count: int) -> list[np.ndarray]:
    """Return `count` of `rows`, indices of patches, for each class, drawn at random; `labels` are of all patches."""
    return [rng.permutation(rows[labels[rows] == label])[:count] for label in np.unique(labels[rows])]


def _represent(run: Run, name: str, rows: np.ndarray, space: str) -> np.ndarray:
    """Return the features, layouts or reduced pixels of patches; float, (n, d).

    Args:
        name: Of the set of patches, of SETS; the synthetic ones are not in the store.
        rows: Of the store, or of the synthetic patches.
        space: `features`, `layout` or `pixels`.
    """
    is_synthetic = name == "Synthetic patches"
    if space == "features":
        return (run.synthetic[COMPARED_BLOCK][rows] if is_synthetic else run.pooled_features[rows]).astype(float)
    images = run.synthetic["images"][rows] if is_synthetic else run.store.images[rows]
    return (compute_layouts(images) if space == "layout" else distances.reduce_pixels(images)).astype(float)


def _closest_pairs(rows: np.ndarray, neighbors: np.ndarray, distances: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of COLUMNS // 2 different patches with the smallest distances, the nearest first.

    Args:
        rows, neighbors: Numbers of patches, (n,), and of the nearest other one of each.
        distances: float, (n,). Between the two.
    """
    pairs, used = [], set()
    for index in np.argsort(distances):
        pair = int(rows[index]), int(neighbors[index])
        if not used & set(pair):
            pairs.append(pair)
            used |= set(pair)
        if len(pairs) == COLUMNS // 2:
            break
    return pairs


def _subsample(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """Return at most NUM_COMPARED of the rows, drawn at random and sorted."""
    return np.sort(rng.permutation(rows)[:NUM_COMPARED])


def _first_synthetic_patches(run: Run, label: int, count: int) -> tuple[np.ndarray, list[str]]:
    """Return the first `count` synthetic patches of a class, and their ids."""
    rows = np.flatnonzero(run.synthetic["labels"] == label)[:count]
    return run.synthetic["images"][rows], [f"synthetic {row}" for row in rows]
