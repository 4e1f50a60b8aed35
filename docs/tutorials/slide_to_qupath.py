# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # A slide to a map in QuPath
#
# The classifier within bcgan scores a slide of any format that OpenSlide or tifffile reads. Here a small slide is
# drawn, so that you can run this page as it is.

# %%
import json
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from bcgan.data.histology_phantom.tissue import example_patches

# %%
patches, _ = example_patches(12)
rows = [np.concatenate(patches[start : start + 4], axis=1) for start in (0, 4, 8)]
slide = np.concatenate(rows)
resolution = 10_000 / 4  # pixels per centimetre, at 4 microns a pixel
tifffile.imwrite(
    "slide.tif",
    slide,
    tile=(64, 64),
    photometric="rgb",
    resolution=(resolution, resolution),
    resolutionunit="CENTIMETER",
)
print(slide.shape)

# %% [markdown]
# ## Score it
#
# `calls.csv` has a row for each patch, `maps` a heat map and outlines, `slides.csv` the areas. The resolution comes
# from the file.

# %%
# !bcgan predict slide.tif --out calls.csv --maps maps --summary slides.csv

# %%
calls = pd.read_csv("calls.csv")
print(calls[["x", "y", "probability", "label", "verdict"]].head())
print(pd.read_csv("slides.csv").T)

# %% [markdown]
# A patch without a label is `abstained` (its probability lies between two limits), `out_of_distribution` (it is unlike
# the tissue that the classifier knows) or `no_tissue`. The classifier learnt from one data set of breast tissue: of
# drawn tissue it refuses much, and what it calls may be wrong. Patches of a slide are called with their neighbours
# (`--no-spatial-context`: without), so that a patch by itself may have another probability.

# %% [markdown]
# ## Open it in QuPath
#
# Open `slide.tif`, then drag the file of outlines onto it. Each outline is a patch, with its class and probability.

# %%
(outlines,) = Path("maps").glob("*.geojson")
features = json.loads(outlines.read_text("utf-8"))["features"]
print(outlines, len(features), "outlines; the first:", features[0]["properties"])

# %% [markdown]
# To run the classifier inside QuPath, see [QuPath and WSInfer](../how-to/qupath.md).
