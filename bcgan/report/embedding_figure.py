"""The discriminator's features of patches, real and synthetic, laid out in a plane."""

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from bcgan.data.records import CLASSES
from bcgan.gan.features import PICTURED
from bcgan.report.run import Run
from bcgan.report.style import CLASS_COLOURS, MUTED, REAL, SYNTHETIC, Drawn, plt, sns

MAX_EXAMPLES = 800  # real patches, and as many synthetic ones
NAMED, OTHERS = 5, "others"  # patients with a colour of their own: more are not told apart
KIND_COLOURS = {"real": REAL, "synthetic": SYNTHETIC}


def embedding(run: Run) -> Drawn:
    """t-SNE (van der Maaten and Hinton 2008) of test patches and of synthetic ones."""
    rng = np.random.default_rng(0)
    rows = run.store.rows("test")
    rows = np.sort(rng.permutation(rows)[:MAX_EXAMPLES])
    index, features = run.store.index.iloc[rows], [run.pooled[rows]]
    table = pd.DataFrame({
        "kind": "real", "class": np.array(CLASSES)[index["label"]], "patient": index["patient"].to_numpy(str),
    })  # fmt: skip
    if PICTURED in run.synthetic:
        count = min(MAX_EXAMPLES, len(run.synthetic["labels"]))
        features.append(run.synthetic[PICTURED][:count])
        labels = np.array(CLASSES)[run.synthetic["labels"][:count]]
        table = pd.concat([table, pd.DataFrame({"kind": "synthetic", "class": labels, "patient": ""})])
    values = StandardScaler().fit_transform(np.concatenate(features))
    perplexity = min(30, (len(values) - 1) / 3)
    table[["x", "y"]] = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(values)
    real = table[table["kind"] == "real"]
    patches_per_patient = (
        real["patient"].value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable")
    )
    named = list(patches_per_patient.index[:NAMED])
    groups = real.assign(patient=real["patient"].where(real["patient"].isin(named), OTHERS))
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.7), sharex=True, sharey=True)
    for axes, part, column, colours, title in (
        (panels[0], real, "class", CLASS_COLOURS, "Real patches by class"),
        (panels[1], groups, "patient", {OTHERS: MUTED} | dict(zip(named, sns.husl_palette(len(named)), strict=True)),
         f"Real patches by patient ({len(patches_per_patient)})"),
        (panels[2], table, "kind", KIND_COLOURS, "Real and synthetic patches"),
    ):  # fmt: skip
        for name, points in sorted(part.groupby(column), key=lambda group: (group[0] != OTHERS, group[0])):
            axes.scatter(
                points["x"], points["y"], s=7, lw=0, alpha=0.75, color=colours[name], label=name, rasterized=True
            )
        axes.set(title=title, xticks=[], yticks=[], xlabel="t-SNE 1")
        axes.legend(
            markerscale=2, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncol=3 if column == "patient" else 2
        )
    panels[0].set_ylabel("t-SNE 2")
    synthetic_count = len(table) - len(real)
    caption = (
        f"The mean of every channel of the discriminator's {PICTURED}, standardised and laid out by t-SNE: "
        f"{len(real):,} patches of {len(patches_per_patient)} test patients and {synthetic_count:,} synthetic ones. "
        f"{len(named)} patients, "
        "the first by number of patches, have a colour of their own. Neighbours here are neighbours among the "
        "features; distances between groups mean nothing."
    )
    return Drawn(figure, table, "What the discriminator sees as alike", caption)
