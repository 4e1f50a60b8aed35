"""What can be measured on a patch without a network: tissue, nuclear density, colour, texture, sharpness.

The paper sorts by "breast density", a word of mammography; on a patch it is the share of tissue whose haematoxylin
optical density, by colour deconvolution (Ruifrok and Johnston 2001), exceeds a threshold.
"""

import cv2
import numpy as np
import pandas as pd
from skimage.color import rgb2hed, rgb2hsv

TISSUE_SATURATION = 0.07  # below it, and bright, a pixel is glass or fat
TISSUE_VALUE = 0.86
GREY_LEVELS = 32  # of the co-occurrence statistics
CHUNK = 512


def haematoxylin(images: np.ndarray) -> np.ndarray:
    """Haematoxylin optical density (decadic, Ruifrok and Johnston's vectors), float32, (n, height, width).

    Args:
        images: uint8 or float in [0, 1], (n, height, width, 3).
    """
    # skimage divides its logarithm by ln(1e-6) and scales to densities of 1e-6: undone here.
    return (rgb2hed(images)[..., 0] * 6).astype(np.float32)


def tissue_mask(images: np.ndarray) -> np.ndarray:
    """True where a pixel is stained tissue, not glass or fat; (n, height, width)."""
    hsv = rgb2hsv(images)
    return (hsv[..., 1] > TISSUE_SATURATION) | (hsv[..., 2] < TISSUE_VALUE)


def co_occurrence(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contrast and homogeneity of the grey-level co-occurrence matrix at distance 1, right and below together.

    Both are means over neighbouring pairs, so the matrix itself is never built. float32, (n,) each.

    Args:
        images: uint8, (n, height, width, 3).
    """
    grey = (images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    levels = (grey.astype(np.int16) * GREY_LEVELS) // 256
    right = (levels[:, :, 1:] - levels[:, :, :-1]).reshape(len(images), -1)
    below = (levels[:, 1:] - levels[:, :-1]).reshape(len(images), -1)
    squares = np.concatenate([right, below], 1).astype(np.float32) ** 2
    return squares.mean(1), (1 / (1 + squares)).mean(1)


def measure(images: np.ndarray, threshold: float) -> pd.DataFrame:
    """One row a patch: coverage, density, haematoxylin, red, green, blue, contrast, homogeneity, sharpness.

    coverage and density are shares in [0, 1] (density of the tissue, 0 without tissue), haematoxylin a mean
    optical density over tissue, colours mean grey levels 0 to 255.

    Args:
        images: uint8, (n, height, width, 3); may be memory-mapped.
        threshold: float. Haematoxylin optical density above which a pixel counts as nucleus.
    """
    chunks = [_measure_chunk(images[start : start + CHUNK], threshold) for start in range(0, len(images), CHUNK)]
    return pd.concat(chunks, ignore_index=True)


def _measure_chunk(images: np.ndarray, threshold: float) -> pd.DataFrame:
    images = np.asarray(images)
    tissue = tissue_mask(images)
    stained = haematoxylin(images)
    pixels = np.maximum(tissue.sum((1, 2)), 1)
    contrast, homogeneity = co_occurrence(images)
    colours = images.mean((1, 2))
    sharpness = [cv2.Laplacian(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var() for i in images]
    return pd.DataFrame(
        {
            "coverage": tissue.mean((1, 2)),
            "density": ((stained > threshold) & tissue).sum((1, 2)) / pixels,
            "haematoxylin": np.where(tissue, stained, 0).sum((1, 2)) / pixels,
            "red": colours[:, 0],
            "green": colours[:, 1],
            "blue": colours[:, 2],
            "contrast": contrast,
            "homogeneity": homogeneity,
            "sharpness": np.array(sharpness, np.float32),
        }
    )
