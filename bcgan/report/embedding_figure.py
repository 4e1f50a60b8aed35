"""Figure of the discriminator's features of real and synthetic patches, embedded in a plane."""

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from bcgan.classes import class_text
from bcgan.gan.features import COMPARED_BLOCK
from bcgan.report.run import Run
from bcgan.report.style import MUTED, REAL, SYNTHETIC, ReportFigure, plt, sns
from bcgan.report.wording import MAX_LISTED_CLASSES

MAX_EXAMPLES = 800  # real patches, and as many synthetic ones
NUM_COLORED, OTHERS = 5, "others"  # patients with a color of their own: more colors are hard to distinguish
KIND_COLORS = {"real": REAL, "synthetic": SYNTHETIC}


def embedding(run: Run) -> ReportFigure:
    """Draw the t-SNE embedding (van der Maaten and Hinton 2008) of test patches and synthetic ones."""
    rng = np.random.default_rng(0)
    rows = run.store.role_indices("test")
    rows = np.sort(rng.permutation(rows)[:MAX_EXAMPLES])
    index, features = run.store.index.iloc[rows], [run.pooled_features[rows]]
    table = pd.DataFrame({
        "kind": "real", "class": np.array(run.class_names)[index["label"]], "patient": index["patient"].to_numpy(str),
    })  # fmt: skip
    if COMPARED_BLOCK in run.synthetic:
        drawn = _select_by_counts(run.synthetic["labels"], np.bincount(index["label"], minlength=len(run.class_names)))
        features.append(run.synthetic[COMPARED_BLOCK][drawn])
        labels = np.array(run.class_names)[run.synthetic["labels"][drawn]]
        table = pd.concat([table, pd.DataFrame({"kind": "synthetic", "class": labels, "patient": ""})])
    values = StandardScaler().fit_transform(np.concatenate(features))
    perplexity = min(30, (len(values) - 1) / 3)
    table[["x", "y"]] = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(values)
    real = table[table["kind"] == "real"]
    patches_per_patient = (
        real["patient"].value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable")
    )
    colored = list(patches_per_patient.index[:NUM_COLORED])
    grouped = real.assign(patient=real["patient"].where(real["patient"].isin(colored), OTHERS))
    patient_colors = {OTHERS: MUTED} | dict(zip(colored, sns.husl_palette(len(colored)), strict=True))
    legend_rows = len(run.class_names) if len(run.class_names) > MAX_LISTED_CLASSES else 2
    height = 3.7 + 0.2 * (legend_rows - 2)
    figure, panels = plt.subplots(1, 3, figsize=(10, height), sharex=True, sharey=True)
    for axes, points, column, colors, title in (
        (panels[0], real, "class", run.class_colors, "Real patches by class"),
        (panels[1], grouped, "patient", patient_colors,
         f"Real patches by patient ({len(patches_per_patient)})"),
        (panels[2], table, "kind", KIND_COLORS, "Real and synthetic patches"),
    ):  # fmt: skip
        names = colors if column == "class" else sorted(colors, key=lambda name: (name != OTHERS, name))
        for name in names:
            group = points[points[column] == name]
            if len(group):
                text = class_text(name) if column == "class" else name
                axes.scatter(
                    group["x"], group["y"], s=7, lw=0, alpha=0.75, color=colors[name], label=text, rasterized=True
                )
        axes.set(title=title, xticks=[], yticks=[], xlabel="t-SNE 1")
        num_columns = {"patient": 3, "class": 2 if legend_rows == 2 else 1}.get(column, 2)
        axes.legend(markerscale=2, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncol=num_columns)
    panels[0].set_ylabel("t-SNE 2")
    synthetic_count = len(table) - len(real)
    caption = (
        f"The mean of every channel of the discriminator's {COMPARED_BLOCK}, standardised and laid out by t-SNE: "
        f"{len(real):,} patches of {len(patches_per_patient)} test patients and {synthetic_count:,} synthetic ones, "
        "with the same share of each class. "
        f"{len(colored)} patients, "
        "the first by number of patches, have a colour of their own. Neighbours here are neighbours among the "
        "features; distances between groups mean nothing."
    )
    return ReportFigure(figure, table, "What the discriminator sees as alike", caption)


def _select_by_counts(labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return rows of `labels` that contain each class as often as `counts` says: its first rows, in order.

    If a class has too few rows, all counts are scaled down by the same factor.

    Args:
        labels: Integers, (n,). The classes of the synthetic patches.
        counts: Integers, (classes,). The number of real patches of each class in the figure.
    """
    available = np.bincount(labels, minlength=len(counts))
    scale = min([1.0, *(have / count for have, count in zip(available, counts, strict=True) if count)])
    rows = [np.flatnonzero(labels == label)[: int(scale * count)] for label, count in enumerate(counts)]
    return np.sort(np.concatenate(rows))
