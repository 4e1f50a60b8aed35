"""Detect failures of a GAN in training that its losses do not show: mode collapse and a dominant discriminator."""

from collections.abc import Sequence

import cv2
import numpy as np

WINDOW = 20  # logged steps that a diagnosis is based on
MIN_SPREAD = 0.3  # of the variation between synthetic patches, as a fraction of that between real ones
MAX_RECOGNIZED = 0.99  # fraction of patches that the discriminator classifies correctly
ROUNDING = 1e-2  # of the brightness of cells, from 0 to 255
GRID_CELLS = 5  # cells per side of the coarse brightness grid that is the layout of a patch


def diagnose(lines: Sequence[dict[str, float]]) -> str | None:
    """Describe in a sentence what failed in the last logged steps; `None` if nothing did.

    Args:
        lines: One dict for each logged step, oldest first: `spread` (variation between synthetic patches of a class as
            a fraction of that between real ones), `real_recognised` and `fake_recognised` (fractions that the
            discriminator classifies correctly).
    """
    if len(lines) < WINDOW:
        return None
    recent = {key: np.median([line[key] for line in list(lines)[-WINDOW:]]) for key in lines[-1]}
    if recent["spread"] < MIN_SPREAD:
        return (
            f"the synthetic patches of a class differ {recent['spread']:.0%} as much as real ones do (collapse); "
            "lower gan.discriminator_learning_rate, or set gan.diff_augment=true"
        )
    if min(recent.get(name, 0.0) for name in ("real_recognised", "fake_recognised")) > MAX_RECOGNIZED:
        return (
            "the discriminator recognizes nearly every patch, so that the generator cannot learn from it; lower "
            "gan.discriminator_learning_rate, or set gan.spectral_norm=true and gan.diff_augment=true"
        )
    return None


def layout_correlation(images: np.ndarray) -> float:
    """Return the mean correlation, over all pairs of patches, of their brightness on a coarse grid.

    About 0 for patches with unrelated layouts, 1 if all are the same; NaN for fewer than two. Patches of uniform
    brightness are left out.

    Args:
        images: uint8, (n, height, width, 3).
    """
    grids = compute_layouts(images)
    grids = grids[grids.any(1)]
    count = len(grids)
    # The squared length of a sum of unit vectors is their number plus the dot products of all ordered pairs.
    return float((np.square(grids.sum(0)).sum() - count) / (count * (count - 1))) if count > 1 else np.nan


def compute_layouts(images: np.ndarray) -> np.ndarray:
    """Return the layout of each patch: the mean brightness of its cells, less the mean of all, with a norm of 1.

    The dot product of two layouts is their correlation. A patch of uniform brightness has a layout of zeros.

    Args:
        images: uint8, (n, height, width, 3).

    Returns:
        float32, (n, cells).
    """
    grids = brightness_grids([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in images])
    grids -= grids.mean(1, keepdims=True)
    lengths = np.linalg.norm(grids, axis=1, keepdims=True)
    return np.divide(grids, lengths, out=np.zeros_like(grids), where=lengths > ROUNDING)


def brightness_grids(gray: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean brightness of gray patches of any size on a grid of GRID_CELLS a side: float, (n, cells)."""
    grids = [cv2.resize(image, (GRID_CELLS, GRID_CELLS), interpolation=cv2.INTER_AREA).ravel() for image in gray]
    return np.reshape(grids, (-1, GRID_CELLS * GRID_CELLS)).astype(float)
