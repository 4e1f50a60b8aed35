"""Patches as arrays: their eight orientations, and the middle of them."""

import numpy as np


def central(images: np.ndarray, crop: int | None) -> np.ndarray:
    """The central crop x crop square of each patch, a view."""
    if not crop:
        return images
    start = (images.shape[1] - crop) // 2
    return images[:, start : start + crop, start : start + crop]


def view(images: np.ndarray, number: int) -> np.ndarray:
    """One of the eight orientations of every patch, 0 being as it is; for averages at test time."""
    if number & 4:
        images = images.transpose(0, 2, 1, 3)
    if number & 1:
        images = images[:, ::-1]
    return images[:, :, ::-1] if number & 2 else images
