"""Whether a GAN in training has failed: what nobody notices in a falling loss."""

from collections.abc import Sequence

import cv2
import numpy as np

WINDOW = 20  # logged steps that have to agree before anything is said
LEAST_SPREAD = 0.3  # of the real patches'
RECOGNISED = 0.99
GRID = 5  # cells a side, whose brightness is the layout of a patch


def trouble(lines: Sequence[dict[str, float]]) -> str | None:
    """One sentence on what went wrong, from the last logged steps; None where nothing did.

    Args:
        lines: dicts with `spread` (variation between synthetic patches of a class as a share of that between real
            ones), `real_recognised` and `fake_recognised` (shares that the discriminator tells), oldest first.
    """
    if len(lines) < WINDOW:
        return None
    recent = {key: np.median([line[key] for line in list(lines)[-WINDOW:]]) for key in lines[-1]}
    if recent["spread"] < LEAST_SPREAD:
        return (
            f"the synthetic patches of a class differ {recent['spread']:.0%} as much as real ones do (collapse); "
            "lower gan.discriminator_learning_rate, or set gan.diff_augment=true"
        )
    if min(recent["real_recognised"], recent["fake_recognised"]) > RECOGNISED:
        return (
            "the discriminator recognises nearly every patch and teaches the generator nothing; lower "
            "gan.discriminator_learning_rate, or set gan.spectral_norm=true and gan.diff_augment=true"
        )
    return None


def sameness(images: np.ndarray) -> float:
    """How alike the layouts of patches are: the mean correlation, over pairs, of brightness on a coarse grid.

    About 0 between patches that have nothing in common, 1 where all are one; NaN of fewer than two. Patches that are
    nowhere darker than elsewhere have no layout and do not count.

    Args:
        images: uint8, (n, height, width, 3).
    """
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in images]
    grids = [cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel() for image in grey]
    grids = np.reshape(grids, (-1, GRID * GRID)).astype(float)
    grids -= grids.mean(1, keepdims=True)
    lengths = np.linalg.norm(grids, axis=1)
    grids = grids[lengths > 0] / lengths[lengths > 0, None]
    count = len(grids)
    return float((np.square(grids.sum(0)).sum() - count) / (count * (count - 1))) if count > 1 else np.nan
