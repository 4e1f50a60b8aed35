"""Handcrafted features of patches: tissue coverage, nuclear density, color, texture, sharpness.

The paper sorts patches by "breast density", a term of mammography. Here, nuclear density is the fraction of tissue
whose hematoxylin optical density, by color deconvolution (Ruifrok and Johnston 2001), exceeds a threshold.
"""

import cv2
import numpy as np
import pandas as pd
from skimage.color import rgb2hed, rgb2hsv

TISSUE_SATURATION = 0.07  # a pixel with less saturation and at least TISSUE_VALUE is glass or fat
TISSUE_VALUE = 0.86
GREY_LEVELS = 32  # of the co-occurrence statistics
CHUNK_PIXELS = 512 * 50 * 50  # of the patches that are measured at a time


def haematoxylin(images: np.ndarray) -> np.ndarray:
    """Return the hematoxylin optical density (decadic, Ruifrok and Johnston's vectors), float32, (n, height, width).

    Args:
        images: uint8 or float in [0, 1], (n, height, width, 3).
    """
    # skimage divides by ln(1e-6), which the factor 6 undoes.
    return (rgb2hed(images)[..., 0] * 6).astype(np.float32)


def tissue_mask(images: np.ndarray) -> np.ndarray:
    """Return whether each pixel of RGB images, (n, height, width, 3), is stained tissue, not glass or fat; bool."""
    hsv = rgb2hsv(images)
    return (hsv[..., 1] > TISSUE_SATURATION) | (hsv[..., 2] < TISSUE_VALUE)


def co_occurrence(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return contrast and homogeneity of the gray-level co-occurrence matrix at distance 1, float32 (n,) each.

    Pairs of horizontal and vertical neighbors are pooled. Both are means over these pairs, so the matrix itself is not
    computed.

    Args:
        images: uint8, (n, height, width, 3).
    """
    gray = (images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    levels = (gray.astype(np.int16) * GREY_LEVELS) // 256
    right = (levels[:, :, 1:] - levels[:, :, :-1]).reshape(len(images), -1)
    below = (levels[:, 1:] - levels[:, :-1]).reshape(len(images), -1)
    squares = np.concatenate([right, below], 1).astype(np.float32) ** 2
    return squares.mean(1), (1 / (1 + squares)).mean(1)


def patch_features(images: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return one row of image properties for each patch.

    Columns: coverage (fraction of tissue), density (fraction of the tissue that is nuclei, 0 without tissue),
    haematoxylin (mean optical density over tissue), red, green and blue (means, 0 to 255), contrast and homogeneity (of
    the gray-level co-occurrence matrix), sharpness (variance of the Laplacian).

    Args:
        images: uint8, (n, height, width, 3); may be `bcgan.data.rows.ImageRows`.
        threshold: Hematoxylin optical density above which a pixel counts as nucleus.
    """
    step = max(1, CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    chunks = [_chunk_features(images[start : start + step], threshold) for start in range(0, len(images), step)]
    return pd.concat(chunks, ignore_index=True)


def _chunk_features(images: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return what `patch_features` does, of some of the patches."""
    images = np.asarray(images)
    tissue = tissue_mask(images)
    optical_density = haematoxylin(images)
    num_tissue = np.maximum(tissue.sum((1, 2)), 1)  # 1 avoids a division by 0: sums over no tissue are 0
    contrast, homogeneity = co_occurrence(images)
    colors = images.mean((1, 2))
    sharpness = [cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var() for image in images]
    return pd.DataFrame(
        {
            "coverage": tissue.mean((1, 2)),
            "density": ((optical_density > threshold) & tissue).sum((1, 2)) / num_tissue,
            "haematoxylin": np.where(tissue, optical_density, 0).sum((1, 2)) / num_tissue,
            "red": colors[:, 0],
            "green": colors[:, 1],
            "blue": colors[:, 2],
            "contrast": contrast,
            "homogeneity": homogeneity,
            "sharpness": np.array(sharpness, np.float32),
        }
    )
