# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Your own patches, from a folder to a report
#
# Patches lie in `<patient>/<class>/<image>`. Here they are drawn, so that you can run this page as it is. With patches
# of your own, leave out the cell that draws them, put your folder's name in place of `my_patches` behind `--data-dir`,
# and in the command and the pattern of the last part, and the scale of your files in place of 4.
#
# Run the page in Jupyter (`pip install jupytext notebook`, then open it as a notebook), or cell by cell in an editor.
# Lines that begin with `!` (in a text editor `# !`) are commands for a terminal.

# %%
import os
from pathlib import Path

import pandas as pd
from PIL import Image

from bcgan.data.histology_phantom.tissue import example_patches

OPTIONS = os.environ.get("BCGAN_TUTORIAL_OPTIONS", "")
FOLDER = Path("my_patches")  # the drawn patches; the experiment below has the same name
CLASSES = ("benign", "malignant")

# %%
images, labels = example_patches(320)
for number, (image, label) in enumerate(zip(images, labels, strict=True)):
    folder = FOLDER / f"patient{number // 2 % 16:02d}" / CLASSES[label]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{number:04d}.png")
print(len(list(FOLDER.rglob("*.png"))), "patches of", len(list(FOLDER.iterdir())), "patients")

# %% [markdown]
# ## An experiment to edit
#
# The settings are a YAML file. `data.mpp` is the scale, in microns per pixel: give it if you know it, so that the
# classifier can be used on slides. Write settings that you keep into the file, as here: those of `--set` count for one
# command alone.

# %%
# !bcgan init my_patches --from folder

# %%
settings = Path("pipelines/my_patches.yaml")
if "mpp:" not in settings.read_text("utf-8"):
    settings.write_text(settings.read_text("utf-8").replace("data:\n", "data:\n  mpp: 4\n"), "utf-8")
print(settings.read_text("utf-8"))

# %% [markdown]
# ## What is in the data
#
# `preprocess` finds patches that cannot be read, repeat, are blank or blurred, and patients that are spelled in two
# ways. Whole patients are assigned to training, validation and test. Many drawn patches are near duplicates of one
# another: they are counted and kept.

# %%
# !bcgan run my_patches --data-dir my_patches --until preprocess $OPTIONS

# %% [markdown]
# ## Train and report

# %%
# !bcgan run my_patches $OPTIONS

# %%
# !bcgan report my_patches --out my_report

# %% [markdown]
# ## Use the classifier
#
# On every patient here, for the sake of the example: most of them trained it. The file of a patch does not name its
# patient, so the pattern is searched in the path.

# %%
# !bcgan export my_patches --out my_model

# %%
# !bcgan predict my_patches --model my_model --out calls.csv --summary summary.csv --patient 'my_patches/([^/]+)/'

# %%
summary = pd.read_csv("summary.csv", dtype={"patient": str})
print(
    summary[summary["slide"].isna()][["patient", "patches", "malignant_fraction", "abstained", "out_of_distribution"]]
)

# %% [markdown]
# Next: [a slide to a map](slide_to_qupath.py), or
# [data sets, classes and tables of labels](../reference/data-sets.md).
