"""Figures of the data: examples, counts, image properties, density (the paper's Figs. 1, 7, 8 and 9), faults."""

import contextlib
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from bcgan import data
from bcgan.classes import CLASSES, capitalize
from bcgan.errors import InputError
from bcgan.preprocess import images, stain
from bcgan.report import tables
from bcgan.report.run import Run
from bcgan.report.style import (
    INK,
    ROLE_NAMES,
    ReportFigure,
    blank_grid,
    panel_grid,
    rows_per_class,
    set_group_title,
    show_patch,
)
from bcgan.report.wording import count_text, join_words
from bcgan.slides.decode import decode_image

PROPERTIES = {
    "coverage": "Tissue coverage (share of patch)",
    "density": "Nuclear density (share of tissue)",
    "area": "Patch area (pixels)",
    "brightness": "Mean brightness (grey levels)",
    "contrast": "Texture contrast (levels²)",
    "homogeneity": "Texture homogeneity",
}
LOG_SCALED = ("coverage", "area")  # nearly constant: on a linear axis, rare values would be invisible
ORDERS = {"density": "By nuclear density", "coverage": "By tissue coverage", "haematoxylin": "By haematoxylin stain"}
STAINS = ("haematoxylin", "eosin")
MAX_STAIN_PATCHES = 100  # of a patient, for estimating the stains
MAX_LEGEND_COLUMNS = 4
MAX_FILLED = 3  # histograms in a panel; more cover each other, and only their outlines are drawn
MAX_SWATCHES = 80  # patients whose stains are drawn as colors


def examples(run: Run) -> ReportFigure:
    """Draw patches of each class of training patients, or synthetic ones: the paper's Fig. 1."""
    num_columns = run.experiment.report.num_examples
    num_rows = rows_per_class(len(run.class_names), 2)  # of each class
    kind = "real" if run.patient_images else "synthetic"
    grid_rows = num_rows * len(run.class_names)
    figure, grid = blank_grid(grid_rows, num_columns, (num_columns * 0.95, 1.1 * grid_rows))
    rows = []
    for label, name in enumerate(run.class_names):
        patches, ids = select_patches(run, label, num_rows * num_columns)
        for index, (patch, patch_id) in enumerate(zip(patches, ids, strict=True)):
            row, column = divmod(index, num_columns)
            show_patch(grid[num_rows * label + row, column], patch)
            rows.append({"class": name, "row": num_rows * label + row, "column": column, "id": patch_id})
        set_group_title(grid[num_rows * label, 0], capitalize(run.class_texts[label]), run.class_colors[name])
    source = (
        f"Of {run.role_summary('train')}."
        if run.patient_images
        else f"Real ones may not be shown. {run.gan_training_summary()}"
    )
    first, *others = run.class_texts
    classes = capitalize(join_words([f"{first} (top)", *others]))
    title = "Patches of each class" if run.is_multiclass else f"{capitalize(join_words(run.class_texts))} patches"
    caption = f"{classes} patches, {len(rows)} {kind} ones. {source}"
    return ReportFigure(figure, pd.DataFrame(rows), title, caption)


def count_plot(run: Run) -> ReportFigure:
    """Draw the numbers of patches by class and role: the paper's Fig. 7."""
    rows = [
        {"role": ROLE_NAMES[role], "class": name, "patches": count,
         "share": count / max(sum(run.class_counts(role)), 1), "patients": run.role_counts(role)["patients"]}
        for role in run.split["counts"]
        for name, count in zip(run.class_names, run.class_counts(role), strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    order = [name for name in ROLE_NAMES.values() if name in set(table["role"])]
    patients = table.drop_duplicates("role").set_index("role")["patients"]
    role_height = min(0.31 * len(run.class_names), 1.8)
    figure, axes = plt.subplots(figsize=(7, role_height * len(order) + 1.6))
    sns.barplot(table, y="role", x="patches", hue="class", order=order, palette=run.class_colors, saturation=1, ax=axes)
    for bars, name in zip(axes.containers, run.class_names, strict=True):
        class_rows = table[table["class"] == name].set_index("role").loc[order]
        texts = [f"{row.patches:,} ({row.share:.0%})" for row in class_rows.itertuples()]
        axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set(xlabel="Patches", ylabel="")
    axes.set_yticks(range(len(order)), [f"{role}\n{patients[role]} patients" for role in order])
    axes.margins(x=0.16)
    num_columns = min(len(run.class_names), MAX_LEGEND_COLUMNS)
    sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncol=num_columns, title=None)
    for text, class_text in zip(axes.get_legend().get_texts(), run.class_texts, strict=True):
        text.set_text(class_text)
    caption = (
        f"{_class_counts_text(run)}, of {run.store.index['patient'].nunique()} patients. In brackets the share of the "
        "role's patches."
    )
    return ReportFigure(figure, table, "How many patches of each class", caption)


def _class_counts_text(run: Run) -> str:
    """Return the numbers and shares of patches of each class, for the caption of the count plot."""
    index = run.store.index
    counts = np.bincount(index["label"], minlength=len(run.class_names))
    shares = counts / len(index)
    if run.class_names == CLASSES:
        return (
            f"Patches without (0, benign) and with cancer (1, malignant) by role: {len(index):,} in all, "
            f"{counts[1]:,} malignant ({shares[1]:.1%})"
        )
    numbers = join_words([
        f"{counts[label]:,} {text} (label {label}, {shares[label]:.1%})" for label, text in enumerate(run.class_texts)
    ])  # fmt: skip
    return f"Patches by class and role: {len(index):,} in all, {numbers}"


def patient_balance(run: Run) -> ReportFigure:
    """Draw the numbers of patches by patient and class, patients with the largest share of the last class first.

    The table has the numbers of all classes but the first, and the share of the last one.
    """
    names, last = run.class_names, run.class_texts[-1]
    index = run.store.index
    is_class = {name: index["label"] == label for label, name in enumerate(names)}
    counts = pd.DataFrame({"patches": 1} | is_class, index.index).astype(int)
    table = counts.groupby([index["role"], index["patient"]], sort=True).sum().reset_index()
    table["share"] = table[names[-1]] / table["patches"]
    table = table.sort_values(["role", "share", "patches"], ascending=[True, False, False], kind="stable")
    roles = [role for role in ROLE_NAMES if role in set(table["role"])]
    num_columns = min(len(roles), 4)
    figure, grid = panel_grid(len(roles), num_columns, 10, 2.6, 0.4)
    for axes, role in zip(grid.flat, roles, strict=False):
        patients = table[table["role"] == role]
        bottom = np.zeros(len(patients))
        for name, text in reversed(list(zip(names, run.class_texts, strict=True))):
            # Without a line width: the white edges would hide the thin bars of many patients.
            counts, color = patients[name], run.class_colors[name]
            axes.bar(np.arange(len(patients)), counts, 1, bottom=bottom, color=color, label=text, lw=0)
            bottom = bottom + counts.to_numpy()
        axes.set(xticks=[], xlabel=f"{len(patients)} patients")
        axes.set_title(ROLE_NAMES[role].capitalize(), fontsize=9.5)
        axes.margins(x=0.01)
    for axes in grid[:, 0]:
        axes.set_ylabel("Patches")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center",
                  ncol=min(len(names), MAX_LEGEND_COLUMNS))  # fmt: skip
    sns.despine(figure)
    test = table[table["role"] == "test"]
    caption = (
        f"A bar a patient in each role, {table['patient'].nunique()} patients and {table['patches'].sum():,} patches; "
        f"those with the largest share of {last} patches first; every role has its own scale. "
        f"{run.role_summary('test')}: a patient has "
        f"{test['patches'].median():.0f} patches (median; {test['patches'].min()} to {test['patches'].max()}), "
        f"{test['share'].median():.0%} of them {last} ({test['share'].min():.0%} to {test['share'].max():.0%})."
    )
    return ReportFigure(figure, table.drop(columns=names[0]), "Class balance, patient by patient", caption)


def image_properties(run: Run) -> ReportFigure:
    """Draw histograms of coverage, nuclear density, size, brightness and texture by class: the paper's Fig. 8."""
    table = run.properties.copy()
    table["area"] = (run.store.index["height"] * run.store.index["width"]).to_numpy()
    table["brightness"] = table[["red", "green", "blue"]].mean(axis=1)
    varying = {name: label for name, label in PROPERTIES.items() if table[name].nunique() > 1}
    figure, grid = panel_grid(len(varying), -(-len(varying) // 2), 9, 2.5)
    for axes, (name, label) in zip(grid.flat, varying.items(), strict=False):
        low = 0 if name == "area" else table[name].min()
        sns.histplot(
            table, x=name, hue="class", hue_order=run.class_names, palette=run.class_colors, stat="probability",
            bins=40, binrange=(low, table[name].max()), common_norm=False, element="step", ax=axes, legend=False,
            **_histogram_style(run),
        )  # fmt: skip
        axes.set(xlabel=label, ylabel="Share of patches")
        axes.locator_params(axis="both", nbins=5)
        if name in LOG_SCALED:
            axes.set(yscale="log", ylim=(1e-4, 1.5))
    handles = [plt.Line2D([], [], color=color, lw=2) for color in run.class_colors.values()]
    num_columns = min(len(run.class_names), MAX_LEGEND_COLUMNS)
    figure.legend(handles, run.class_texts, loc="outside upper center", ncol=num_columns)
    summary = table.groupby("class")[list(varying)].describe().stack(level=0, future_stack=True)
    same_size = "" if "area" in varying else f" Every patch has {table['area'].iloc[0]:,} pixels."
    caption = (
        f"Image properties of all {len(table):,} patches of {table['patient'].nunique()} patients by class, as shares "
        f"of the class; logarithmic where almost all are the same.{same_size} Nuclear density is the share of tissue "
        f"whose haematoxylin optical density exceeds {run.experiment.features.nuclear_od_threshold:g}; texture is of "
        "the grey-level co-occurrence matrix."
    )
    return ReportFigure(figure, summary.reset_index(names=["class", "property"]), "Image properties by class", caption)


def _histogram_style(run: Run) -> dict[str, Any]:
    """Return {fill, alpha}, whether the histograms of the classes are filled and how opaque, for `sns.histplot`."""
    is_filled = len(run.class_names) <= MAX_FILLED
    return {"fill": is_filled, "alpha": 0.15 if is_filled else 0.9}


def density(run: Run) -> ReportFigure:
    """Draw the histogram of nuclear density, and patches sorted by density, coverage and stain: the paper's Fig. 9."""
    num_columns = run.experiment.report.num_examples + 2
    table = run.properties
    figure = plt.figure(figsize=(9, 7))
    grid = figure.add_gridspec(1 + len(ORDERS), num_columns, height_ratios=(3, *(1.2 for _ in ORDERS)))
    axes = figure.add_subplot(grid[0, :])
    edges = np.linspace(0, 1, 41)
    sns.histplot(
        table, x="density", hue="class", hue_order=run.class_names, palette=run.class_colors, bins=edges,
        element="step", ax=axes, **_histogram_style(run),
    )  # fmt: skip
    axes.set(xlabel="Nuclear (haematoxylin) density, share of tissue", ylabel="Patches", xlim=(0, 1))
    axes.get_legend().set_title(None)
    for text, class_text in zip(axes.get_legend().get_texts(), run.class_texts, strict=True):
        text.set_text(class_text)
    for row, (name, title) in enumerate(ORDERS.items(), 1):
        panels = [figure.add_subplot(grid[row, column]) for column in range(num_columns)]
        for panel, patch, value in zip(panels, *_sorted_patches(run, name, num_columns), strict=True):
            show_patch(panel, patch, f"{value:.2f}")
        set_group_title(panels[0], title, INK)
    counts = {name: np.histogram(table.loc[table["class"] == name, "density"], edges)[0] for name in run.class_names}
    numbers = pd.DataFrame({"from": edges[:-1], "to": edges[1:], **counts})
    medians = table.groupby("class")["density"].median()
    medians_text = join_words(
        [f"{medians[name]:.2f} ({text})" for name, text in zip(run.class_names, run.class_texts, strict=True)]
    )
    kind = "real training" if run.patient_images else "synthetic"
    caption = (
        f"Nuclear density of all {len(table):,} patches of {table['patient'].nunique()} patients; medians "
        f"{medians_text}. Below: {kind} patches at equal "
        "steps of the order by density, by the share of the patch that is tissue, and by the tissue's mean optical "
        'density of haematoxylin, the value under each. The paper orders by "breast density", a term of mammography.'
    )
    return ReportFigure(figure, numbers, "Nuclear density, and patches in order", caption)


def _sorted_patches(run: Run, name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` patches at equal steps of the order by a property, and their values of it, (count,).

    They are training patches, or synthetic ones if patients' tissue may not be shown.
    """
    if run.patient_images:
        images, values = run.store.images, run.properties.loc[run.properties["role"] == "train", name]
    else:
        images, values = run.synthetic["images"], run.synthetic_properties[name]
    ordered = values.sort_values(kind="stable")
    selected = ordered.iloc[np.linspace(0, len(ordered) - 1, count).astype(int)]
    return images[selected.index], selected.to_numpy()


def stain_variation(run: Run) -> ReportFigure:
    """Draw the colors of every patient's two stains, hematoxylin and eosin, and their strengths."""
    colors, rows = [], []
    # The color of a stain at an optical density of 1 is light * exp(-density), by the law of Beer and Lambert.
    for patient, store_rows in run.store.index.groupby("patient", sort=True).indices.items():
        fitted = stain.fit_stains(run.store.images[store_rows[:MAX_STAIN_PATCHES]])
        if fitted is not None:
            directions, strengths = fitted
            colors.append(stain.LIGHT * np.exp(-directions))
            mean = run.properties.iloc[store_rows][["red", "green", "blue"]].mean()
            role = run.store.index["role"].iloc[store_rows[0]]
            rows.append({"patient": patient, "role": role, **dict(zip(STAINS, strengths, strict=True)), **mean,
                         "is_plausible": is_plausible(directions)})  # fmt: skip
    columns = ["patient", "role", *STAINS, "red", "green", "blue", "is_plausible"]
    table, colors = pd.DataFrame(rows, columns=columns), np.array(colors)
    num_shown, num_implausible = min(MAX_SWATCHES, len(table)), int((~table["is_plausible"].astype(bool)).sum())
    figure, (swatches, strengths) = plt.subplots(1, 2, figsize=(9.5, 3.6), width_ratios=(1.5, 1))
    if len(table):
        order = np.argsort(colors[:, 0, 0])  # by the red that the hematoxylin transmits
        order = order[np.linspace(0, len(order) - 1, num_shown).astype(int)]
        swatches.imshow(colors[order].transpose(1, 0, 2).astype(np.uint8), aspect="auto", interpolation="none")
        for column in np.flatnonzero(~table["is_plausible"].to_numpy(bool)[order]):
            outline = plt.Rectangle((column - 0.5, -0.5), 1, 2, fill=False, edgecolor=INK, lw=1.5)
            swatches.add_patch(outline)
        means = table[["red", "green", "blue"]].to_numpy() / 255
        strengths.scatter(*(table[name] for name in STAINS), s=26, c=means, edgecolor=INK, lw=0.4)
    swatches.set(xticks=[], xlabel=f"Patients ({num_shown} of {len(table)}), by their haematoxylin")
    swatches.set_yticks(range(2), [name.capitalize() for name in STAINS])
    swatches.set_title("Stain of each patient")
    sns.despine(ax=swatches, left=True, bottom=True)
    strengths.set(xlabel="Haematoxylin (99th percentile,\noptical density)")
    strengths.set(ylabel="Eosin (99th percentile,\noptical density)")
    strengths.set_title("How strong the stains are")
    missing = run.store.index["patient"].nunique() - len(table)
    implausible = (
        f" The fit of {count_text(num_implausible, 'patient')} is implausible (haematoxylin absorbs less red than "
        "blue, or eosin not green the most), which is outlined." if num_implausible else ""
    )  # fmt: skip
    method = run.experiment.preprocess.stain_normalization
    normalization = "" if method == "none" else f" What is left after stain normalisation ({method})."
    caption = (
        f"Stains of {len(table)} patients, estimated by Macenko's method from at most {MAX_STAIN_PATCHES} patches of "
        f"each ({missing} patients show no two stains). Left: the colour of each stain at an optical density of 1, of "
        f"{num_shown} patients.{implausible} "
        f"Right: amounts of both stains, a dot a patient, in the mean colour of the patient's patches.{normalization}"
    )
    return ReportFigure(figure, table, "How the stain varies between patients", caption)


def is_plausible(directions: np.ndarray) -> bool:
    """Return whether fitted stains look like hematoxylin and eosin.

    Hematoxylin is blue to violet: it absorbs more red than blue. Eosin is pink: it absorbs green the most.

    Args:
        directions: (2, 3). Optical densities of hematoxylin and eosin in red, green and blue.
    """
    hematoxylin, eosin = directions
    return bool(hematoxylin[0] > hematoxylin[2] and eosin.argmax() == 1)


def faulty_patches(run: Run) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Return {fault: (id, patch) of its first files}, uint8 RGB; empty if patients' tissue may not be shown.

    A patch that was excluded is read from the data again, and left out if the data are no longer there.
    """
    if not run.patient_images:
        return {}
    ids_by_fault = {
        fault: tables.examples_with_fault(run.faulty_files, fault)
        for fault in run.audit["faults"]
        if fault != "unreadable"  # such files have no picture
    }
    store_rows = pd.Series(run.store.index.index, run.store.index["id"])
    all_ids = {patch_id for ids in ids_by_fault.values() for patch_id in ids}
    patches = {patch_id: run.store.images[store_rows[patch_id]] for patch_id in all_ids if patch_id in store_rows}
    patches |= _read_excluded_patches(run, all_ids - set(store_rows.index))
    by_fault = {}
    for fault, ids in ids_by_fault.items():
        examples = [(patch_id, patches[patch_id]) for patch_id in ids if patch_id in patches]
        if examples:
            by_fault[fault] = examples
    return by_fault


def _read_excluded_patches(run: Run, ids: set[str]) -> dict[str, np.ndarray]:
    """Return {id: patch, uint8, (size, size, 3)}, read from the data, of those ids that can still be read."""
    settings, patches = run.experiment.data, {}
    try:
        records = data.records(settings) if ids and not settings.tile else []  # with data.tile: whole images
    except InputError:  # the data were moved or deleted
        return patches
    for record in records:
        if record.key in ids:
            with contextlib.suppress(OSError, ValueError):
                image = decode_image(record.read(), record.path)
                patches[record.key] = images.to_square(image, data.native_patch_px(settings), settings.size)
    return patches


def faults(run: Run) -> ReportFigure:
    """Draw a row for each fault that the audit found, with the first patches that have it."""
    by_fault = faulty_patches(run)
    figure, grid = blank_grid(len(by_fault), tables.EXAMPLES_PER_FAULT, (6.6, 1.35 * len(by_fault) + 0.2))
    rows = []
    for axes_row, (fault, examples) in zip(grid, by_fault.items(), strict=True):
        summary, name = run.audit["faults"][fault], fault.replace("_", " ")
        for axes, (patch_id, patch) in zip(axes_row, examples, strict=False):
            show_patch(axes, patch)
            axes.set_xlabel(patch_id, fontsize=6.5, labelpad=2, parse_math=False)
            rows.append({"fault": name, "files": summary["count"], "policy": summary["policy"], "id": patch_id})
        files = f"{summary['count']:,} file{'s' if summary['count'] > 1 else ''}"
        axes_row[0].set_ylabel(f"{name.capitalize()}\n{files}", fontsize=9, rotation=0, ha="right", va="center")
    caption = (
        f"Faults that the audit of {run.audit['patches']:,} patches found, up to {tables.EXAMPLES_PER_FAULT} patches "
        "of each by id; smaller ones are padded with white. What became of them is in the table of the audit."
    )
    return ReportFigure(figure, pd.DataFrame(rows), "What the audit found", caption)


def select_patches(run: Run, label: int, count: int) -> tuple[np.ndarray, list[str]]:
    """Return `count` training patches of a class and their ids, drawn by the seed from as many patients as possible.

    If patients' tissue may not be shown, they are the last synthetic ones: the figure `gan_samples` shows the first.
    """
    rng = np.random.default_rng(run.experiment.seed)
    if not run.patient_images:
        rows = np.flatnonzero(run.synthetic["labels"] == label)[-count:]
        return run.synthetic["images"][rows], [f"synthetic {row}" for row in rows]
    index = run.store.index
    # Smaller patches, from the border of a slide, were padded with white.
    is_complete = (index["height"] == index["width"]) | (data.native_patch_px(run.experiment.data) is None)
    rows = index[(index["role"] == "train") & (index["label"] == label) & is_complete]
    rows = rows.sample(frac=1, random_state=int(rng.integers(2**31)))
    # First one patch of each patient, then a second one, and so on.
    rows = rows.iloc[rows.groupby("patient").cumcount().argsort(kind="stable")].index[:count]
    return run.store.images[rows], index.loc[rows, "id"].tolist()
