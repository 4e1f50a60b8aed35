# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # The paper's pipeline on artificial tissue
#
# The experiment `phantom` draws its own tissue, so that nothing has to be downloaded. It runs every step of the paper:
# a GAN is trained on the patches, its discriminator's features join a ResNet, its synthetic patches enlarge the
# training set, and the result is compared with the ResNet alone. It takes ten to fifteen minutes on two cores.
#
# The results show that the pipeline works, and nothing about patients.

# %%
import json
import os
from pathlib import Path

import pandas as pd

EXPERIMENT = os.environ.get("BCGAN_TUTORIAL_EXPERIMENT", "phantom")

# %% [markdown]
# ## Train
#
# The command can be interrupted. Run again, it resumes, and skips what is up to date.

# %%
# !bcgan run $EXPERIMENT

# %% [markdown]
# ## Report
#
# `report.html` has the paper's tables and figures beside those of this run. `results.json` has the numbers.

# %%
# !bcgan report $EXPERIMENT --out tutorial_report

# %%
results = json.loads(Path("tutorial_report/results.json").read_text("utf-8"))
rows = {name: model["test"]["roc_auc"] for name, model in results["classifiers"].items()}
table = pd.DataFrame(rows).T[["value", "low", "high"]]
print(table)

# %% [markdown]
# Each row is a classifier, with its ROC AUC on test patients and its 95 % interval. `gan_resnet` is the paper's
# proposal, `resnet_table1` the ResNet of its Table 1. Compare the intervals before you say that one is better; the
# report has the differences on the same patients.

# %%
figures = sorted(path.name for path in Path("tutorial_report/figures").glob("fig*.png"))
print("\n".join(figures))

# %% [markdown]
# ## Synthetic patches
#
# A generator draws patches of a class. Those that the quality filter refuses are left out and counted. Here it is the
# generator within bcgan, which was trained on breast tissue; `bcgan sample phantom` takes that of your run.

# %%
# !bcgan sample --label malignant --count 4 --out tutorial_samples

# %%
manifest = json.loads(Path("tutorial_samples/manifest.json").read_text("utf-8"))
print(manifest["tried"], "candidates;", "refused:", manifest["refused"])

# %% [markdown]
# Next: [your own patches](own_patches.py), or [the paper and what differs](../explanation/paper.md).
