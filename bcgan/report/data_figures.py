"""Pictures of the data: examples, the count plot, image properties, density (the paper's Figs. 1, 7, 8 and 9)."""

import contextlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan import data
from bcgan.data.records import CLASSES
from bcgan.errors import InputError
from bcgan.preprocess import images, stain
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import CLASS_COLOURS, INK, ROLE_NAMES, Drawn, head, show_patch
from bcgan.slides.decode import decode_image

PROPERTIES = {
    "coverage": "Tissue coverage (share of patch)",
    "density": "Nuclear density (share of tissue)",
    "area": "Patch area (pixels)",
    "brightness": "Mean brightness (grey levels)",
    "contrast": "Texture contrast (levels²)",
    "homogeneity": "Texture homogeneity",
}
SAME = ("coverage", "area")  # in almost every patch: on a linear axis the others would not show
ORDERS = {"density": "By nuclear density", "coverage": "By tissue coverage", "haematoxylin": "By haematoxylin stain"}
STAINS = ("haematoxylin", "eosin")
STAIN_PATCHES = 100  # of a patient, from which the stains are estimated
SWATCHES = 80  # patients whose stains are drawn as colours


def examples(run: Run) -> Drawn:
    """Fig. 1: benign and malignant patches of training patients, or synthetic ones."""
    number = run.experiment.report.num_examples
    kind = "real" if run.patient_images else "synthetic"
    figure, grid = plt.subplots(4, number, figsize=(number * 0.95, 4.4), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    rows = []
    for label, name in enumerate(CLASSES):
        patches, ids = some_patches(run, label, 2 * number)
        for position, (patch, patch_id) in enumerate(zip(patches, ids, strict=True)):
            row, column = divmod(position, number)
            show_patch(grid[2 * label + row, column], patch)
            rows.append({"class": name, "row": 2 * label + row, "column": column, "id": patch_id})
        head(grid[2 * label, 0], name.capitalize(), CLASS_COLOURS[name])
    source = f"Of {run.said('train')}." if run.patient_images else f"Real ones may not be shown. {run.learnt_from()}"
    caption = f"Benign (top) and malignant patches, {len(rows)} {kind} ones. {source}"
    return Drawn(figure, pd.DataFrame(rows), "Benign and malignant patches", caption)


def count_plot(run: Run) -> Drawn:
    """Fig. 7: patches by class and role; 1 is malignant, 0 is not."""
    table = pd.DataFrame(
        [
            {"role": ROLE_NAMES[role], "class": name, "patches": number}
            for role, count in run.split["counts"].items()
            for name, number in zip(CLASSES, (count["patches"] - count["positives"], count["positives"]), strict=True)
        ]
    )
    order = [name for name in ROLE_NAMES.values() if name in set(table["role"])]
    figure, axes = plt.subplots(figsize=(7, 0.62 * len(order) + 1.6))
    sns.barplot(table, y="role", x="patches", hue="class", order=order, palette=CLASS_COLOURS, saturation=1, ax=axes)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set(xlabel="Patches", ylabel="")
    axes.margins(x=0.12)
    sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncol=2, title=None)
    total, positive = len(run.store.index), int(run.store.index["label"].sum())
    caption = (
        f"Patches without (0, benign) and with cancer (1, malignant) by role: {total:,} in all, {positive:,} malignant "
        f"({positive / total:.1%}), of {run.store.index['patient'].nunique()} patients."
    )
    return Drawn(figure, table, "How many patches of each class", caption)


def patient_balance(run: Run) -> Drawn:
    """Every patient's patches by class, the patients of a role side by side, those with most malignant ones first."""
    table = run.store.index.groupby(["role", "patient"], sort=True)["label"].agg(["size", "sum"]).reset_index()
    table.columns = ["role", "patient", "patches", "malignant"]
    table["share"] = table["malignant"] / table["patches"]
    table = table.sort_values(["role", "share", "patches"], ascending=[True, False, False], kind="stable")
    roles = [role for role in ROLE_NAMES if role in set(table["role"])]
    across = min(len(roles), 4)
    down = -(-len(roles) // across)
    figure, grid = plt.subplots(down, across, figsize=(10, 2.6 * down + 0.4), squeeze=False)
    for axes in grid.flat[len(roles) :]:
        axes.set_visible(False)
    for axes, role in zip(grid.flat, roles, strict=False):
        of_role = table[table["role"] == role]
        places, low = np.arange(len(of_role)), np.zeros(len(of_role))
        for kind, number in (
            ("malignant", of_role["malignant"]),
            ("benign", of_role["patches"] - of_role["malignant"]),
        ):
            # Bars of many patients are thinner than the white edge that they would have.
            axes.bar(places, number, 1, bottom=low, color=CLASS_COLOURS[kind], label=kind, lw=0)
            low = low + number.to_numpy()
        axes.set(xticks=[], xlabel=f"{len(of_role)} patients")
        axes.set_title(ROLE_NAMES[role].capitalize(), fontsize=9.5)
        axes.margins(x=0.01)
    for axes in grid[:, 0]:
        axes.set_ylabel("Patches")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncol=2)
    sns.despine(figure)
    test = table[table["role"] == "test"]
    caption = (
        f"A bar a patient in each role, {table['patient'].nunique()} patients and {table['patches'].sum():,} patches; "
        "those with the largest share of malignant patches first; every role has its own scale. "
        f"{run.said('test').capitalize()}: a patient has "
        f"{test['patches'].median():.0f} patches (median; {test['patches'].min()} to {test['patches'].max()}), "
        f"{test['share'].median():.0%} of them malignant ({test['share'].min():.0%} to {test['share'].max():.0%})."
    )
    return Drawn(figure, table, "Class balance, patient by patient", caption)


def image_properties(run: Run) -> Drawn:
    """Fig. 8: coverage, nuclear density, size, brightness and texture by class."""
    table = run.properties.copy()
    table["area"] = (run.store.index["height"] * run.store.index["width"]).to_numpy()
    table["brightness"] = table[["red", "green", "blue"]].mean(axis=1)
    varying = {name: label for name, label in PROPERTIES.items() if table[name].nunique() > 1}
    figure, grid = plt.subplots(2, -(-len(varying) // 2), figsize=(9, 5))
    for axes in grid.flat[len(varying) :]:
        axes.set_visible(False)
    for axes, (name, label) in zip(grid.flat, varying.items(), strict=False):
        low = 0 if name == "area" else table[name].min()
        sns.histplot(
            table, x=name, hue="class", hue_order=CLASSES, palette=CLASS_COLOURS, stat="probability", bins=40,
            binrange=(low, table[name].max()), common_norm=False, element="step", alpha=0.15, ax=axes, legend=False,
        )  # fmt: skip
        axes.set(xlabel=label, ylabel="Share of patches")
        axes.locator_params(axis="both", nbins=5)
        if name in SAME:
            axes.set(yscale="log", ylim=(1e-4, 1.5))
    handles = [plt.Line2D([], [], color=CLASS_COLOURS[name], lw=2) for name in CLASSES]
    figure.legend(handles, list(CLASSES), loc="outside upper center", ncol=2)
    summary = table.groupby("class")[list(varying)].describe().stack(level=0, future_stack=True)
    same_size = "" if "area" in varying else f" Every patch has {table['area'].iloc[0]:,} pixels."
    caption = (
        f"Image properties of all {len(table):,} patches of {table['patient'].nunique()} patients by class, as shares "
        f"of the class; logarithmic where almost all are the same.{same_size} Nuclear density is the share of tissue "
        f"whose haematoxylin optical density exceeds {run.experiment.features.nuclear_od_threshold:g}; texture is of "
        "the grey-level co-occurrence matrix."
    )
    return Drawn(figure, summary.reset_index(names=["class", "property"]), "Image properties by class", caption)


def density(run: Run) -> Drawn:
    """Fig. 9: the histogram of nuclear density, and patches in the order of density, of coverage and of stain."""
    number = run.experiment.report.num_examples + 2
    table = run.properties
    figure = plt.figure(figsize=(9, 7))
    grid = figure.add_gridspec(1 + len(ORDERS), number, height_ratios=(3, *(1.2 for _ in ORDERS)))
    axes = figure.add_subplot(grid[0, :])
    edges = np.linspace(0, 1, 41)
    sns.histplot(
        table, x="density", hue="class", hue_order=CLASSES, palette=CLASS_COLOURS, bins=edges, element="step",
        alpha=0.15, ax=axes,
    )  # fmt: skip
    axes.set(xlabel="Nuclear (haematoxylin) density, share of tissue", ylabel="Patches", xlim=(0, 1))
    axes.get_legend().set_title(None)
    for row, (name, title) in enumerate(ORDERS.items(), 1):
        line = [figure.add_subplot(grid[row, position]) for position in range(number)]
        for panel, patch, value in zip(line, *_in_order(run, name, number), strict=True):
            show_patch(panel, patch, f"{value:.2f}")
        head(line[0], title, INK)
    counts = {name: np.histogram(table.loc[table["class"] == name, "density"], edges)[0] for name in CLASSES}
    numbers = pd.DataFrame({"from": edges[:-1], "to": edges[1:], **counts})
    medians = table.groupby("class")["density"].median()
    kind = "real training" if run.patient_images else "synthetic"
    caption = (
        f"Nuclear density of all {len(table):,} patches of {table['patient'].nunique()} patients; medians "
        f"{medians['benign']:.2f} (benign) and {medians['malignant']:.2f} (malignant). Below: {kind} patches at equal "
        "steps of the order by density, by the share of the patch that is tissue, and by the tissue's mean optical "
        'density of haematoxylin, the value under each. The paper orders by "breast density", a term of mammography.'
    )
    return Drawn(figure, numbers, "Nuclear density, and patches in order", caption)


def _in_order(run: Run, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches at equal steps of the order by a property, and its values: of training patients, or synthetic ones."""
    if run.patient_images:
        images, values = run.store.images, run.properties.loc[run.properties["role"] == "train", name]
    else:
        images, values = run.synthetic["images"], run.synthetic_properties[name]
    ordered = values.sort_values(kind="stable")
    picked = ordered.iloc[np.linspace(0, len(ordered) - 1, number).astype(int)]
    return images[picked.index], picked.to_numpy()


def stain_variation(run: Run) -> Drawn:
    """The two stains of every patient, and how strong they are."""
    colours, rows = [], []
    for patient, where in run.store.index.groupby("patient", sort=True).indices.items():
        fitted = stain.fit_stains(run.store.images[where[:STAIN_PATCHES]])
        if fitted is not None:
            directions, strengths = fitted
            colours.append(stain.LIGHT * np.exp(-directions))
            mean = run.properties.iloc[where][["red", "green", "blue"]].mean()
            role = run.store.index["role"].iloc[where[0]]
            rows.append({"patient": patient, "role": role, **dict(zip(STAINS, strengths, strict=True)), **mean})
    table, colours = pd.DataFrame(rows, columns=["patient", "role", *STAINS, "red", "green", "blue"]), np.array(colours)
    figure, (swatches, strengths) = plt.subplots(1, 2, figsize=(9.5, 3.6), width_ratios=(1.5, 1))
    if len(table):
        order = np.argsort(colours[:, 0, 0])  # by how much red the haematoxylin lets through
        order = order[np.linspace(0, len(order) - 1, min(SWATCHES, len(order))).astype(int)]
        swatches.imshow(colours[order].transpose(1, 0, 2).astype(np.uint8), aspect="auto", interpolation="none")
        means = table[["red", "green", "blue"]].to_numpy() / 255
        strengths.scatter(*(table[name] for name in STAINS), s=26, c=means, edgecolor=INK, lw=0.4)
    swatches.set(xticks=[], xlabel=f"Patients ({min(SWATCHES, len(table))} of {len(table)}), by their haematoxylin")
    swatches.set_yticks(range(2), [name.capitalize() for name in STAINS])
    swatches.set_title("Stain of each patient")
    sns.despine(ax=swatches, left=True, bottom=True)
    strengths.set(xlabel="Haematoxylin (99th percentile,\noptical density)")
    strengths.set(ylabel="Eosin (99th percentile,\noptical density)")
    strengths.set_title("How strong the stains are")
    missing = run.store.index["patient"].nunique() - len(table)
    done = run.experiment.preprocess.stain_normalization
    after = "" if done == "none" else f" What is left after stain normalisation ({done})."
    caption = (
        f"Stains of {len(table)} patients, estimated by Macenko's method from at most {STAIN_PATCHES} patches of each "
        f"({missing} patients show no two stains). Left: the colour of each stain at an optical density of 1. Right: "
        f"amounts of both stains, a dot a patient, in the mean colour of the patient's patches.{after}"
    )
    return Drawn(figure, table, "How the stain varies between patients", caption)


def faulty_patches(run: Run) -> dict[str, list[tuple[str, np.ndarray]]]:
    """{fault: (id, patch) of the first files that have it}, as far as patients' tissue may be shown and is there.

    A patch that was kept is the store's; one that was left out is read from the data again, if that is still there.
    """
    if not run.patient_images:
        return {}
    ids_by_fault = {fault: tables.having(run.faulty, fault) for fault in run.audit["faults"] if fault != "unreadable"}
    place = pd.Series(run.store.index.index, run.store.index["id"])
    ids = {patch_id for several in ids_by_fault.values() for patch_id in several}
    patches = {patch_id: run.store.images[place[patch_id]] for patch_id in ids if patch_id in place} | _left_out(
        run, ids - set(place.index)
    )
    by_fault = {
        fault: [(patch_id, patches[patch_id]) for patch_id in several if patch_id in patches]
        for fault, several in ids_by_fault.items()
    }
    return {fault: several for fault, several in by_fault.items() if several}


def _left_out(run: Run, ids: set[str]) -> dict[str, np.ndarray]:
    settings, patches = run.experiment.data, {}
    try:
        records = data.records(settings) if ids else []
    except InputError:  # the data went elsewhere since
        return patches
    for record in records:
        if record.key in ids:
            with contextlib.suppress(OSError, ValueError):
                image = decode_image(record.read(), record.path)
                patches[record.key] = images.fit(image, data.native_size(settings), settings.size)
    return patches


def faults(run: Run) -> Drawn:
    """A row a fault that the audit found, the first patches that have it."""
    by_fault = faulty_patches(run)
    figure, grid = plt.subplots(
        len(by_fault), tables.EXAMPLES, figsize=(6.6, 1.35 * len(by_fault) + 0.2), squeeze=False
    )
    for axes in grid.flat:
        axes.set_axis_off()
    rows = []
    for line, (fault, several) in zip(grid, by_fault.items(), strict=True):
        counted, name = run.audit["faults"][fault], fault.replace("_", " ")
        for axes, (patch_id, patch) in zip(line, several, strict=False):
            show_patch(axes, patch)
            axes.set_xlabel(patch_id, fontsize=6.5, labelpad=2, parse_math=False)
            rows.append({"fault": name, "files": counted["count"], "policy": counted["policy"], "id": patch_id})
        files = f"{counted['count']:,} file{'s' if counted['count'] > 1 else ''}"
        line[0].set_ylabel(f"{name.capitalize()}\n{files}", fontsize=9, rotation=0, ha="right", va="center")
    caption = (
        f"Faults that the audit of {run.audit['patches']:,} patches found, up to {tables.EXAMPLES} patches of each by "
        "id; smaller ones are padded with white. What became of them is in the table of the audit."
    )
    return Drawn(figure, pd.DataFrame(rows), "What the audit found", caption)


def some_patches(run: Run, label: int, number: int) -> tuple[np.ndarray, list[str]]:
    """Return `number` training patches of a class and their ids, from as many patients as possible; by the seed.

    Synthetic ones where patient images may not be shown: the last ones, as the figure `gan_samples` has the first.
    """
    rng = np.random.default_rng(run.experiment.seed)
    if not run.patient_images:
        rows = np.flatnonzero(run.synthetic["labels"] == label)[-number:]
        return run.synthetic["images"][rows], [f"synthetic {row}" for row in rows]
    index = run.store.index
    unpadded = (index["height"] == index["width"]) | (data.native_size(run.experiment.data) is None)
    rows = index[(index["role"] == "train") & (index["label"] == label) & unpadded]
    rows = rows.sample(frac=1, random_state=int(rng.integers(2**31)))
    # One patch of each patient first, then the others.
    rows = rows.iloc[rows.groupby("patient").cumcount().argsort(kind="stable")].index[:number]
    return run.store.images[rows], index.loc[rows, "id"].tolist()
