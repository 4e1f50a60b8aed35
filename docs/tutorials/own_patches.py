# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Your own patches, from a folder to a report
#
# Patches lie in `<patient>/<class>/<image>`. Here they are drawn, so that you can run this page as it is; with patches
# of your own, leave the next cell out and name your folder.

# %%
import os
from pathlib import Path

from PIL import Image

from bcgan.data.histology_phantom.tissue import example_patches

OPTIONS = os.environ.get("BCGAN_TUTORIAL_OPTIONS", "")
FOLDER = Path("my_patches")
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
# classifier can be used on slides.

# %%
# !bcgan init my_patches --from folder

# %%
print(Path("pipelines/my_patches.yaml").read_text("utf-8"))

# %% [markdown]
# ## What would run, and what is in the data
#
# `preprocess` finds patches that cannot be read, repeat, are blank or blurred, and patients that are spelled in two
# ways. Whole patients are assigned to training, validation and test.

# %%
# !bcgan run my_patches --data-dir my_patches --set data.mpp=4 --until preprocess $OPTIONS

# %% [markdown]
# ## Train and report

# %%
# !bcgan run my_patches --data-dir my_patches --set data.mpp=4 $OPTIONS

# %%
# !bcgan report my_patches --out my_report

# %% [markdown]
# ## Use the classifier

# %%
# !bcgan export my_patches --out my_model

# %%
# !bcgan predict my_patches/patient00 --model my_model --out calls.csv --summary patients.csv

# %%
print(Path("patients.csv").read_text("utf-8"))

# %% [markdown]
# Next: [a slide to a map](slide_to_qupath.py), or [data sets, classes and tables of labels](../reference/data-
# sets.md).
