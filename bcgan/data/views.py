"""Center crops and orientations of arrays of patches."""

import numpy as np

from bcgan.data.rows import ImageRows


def center_crop(images: np.ndarray | ImageRows, crop: int | None) -> np.ndarray | ImageRows:
    """Return the central crop x crop square of each patch, (n, size, size, 3), without a copy; all of it for `None`."""
    if not crop:
        return images
    if isinstance(images, ImageRows):
        return images.center_crop(crop)
    start = (images.shape[1] - crop) // 2
    return images[:, start : start + crop, start : start + crop]


def ten_crops(images: np.ndarray, crop: int) -> list[np.ndarray]:
    """Return the ten crops of Krizhevsky et al. 2012 for test-time augmentation, as views, (n, crop, crop, 3) each.

    They are the four corners and the center of `images`, (n, height, width, 3), then their mirror images.
    """
    height, width = images.shape[1:3]
    corners = [(top, left) for top in (0, height - crop) for left in (0, width - crop)]
    corners.append(((height - crop) // 2, (width - crop) // 2))
    crops = [images[:, top : top + crop, left : left + crop] for top, left in corners]
    return crops + [view[:, :, ::-1] for view in crops]


def dihedral_view(images: np.ndarray, index: int) -> np.ndarray:
    """Return all patches in orientation `index`, 0 to 7, as a view; 0 is unchanged.

    Args:
        images: (n, size, size, channels).
        index: Sum of 4 for a transposition, then 1 for a vertical and 2 for a horizontal flip.
    """
    if index & 4:
        images = images.transpose(0, 2, 1, 3)
    if index & 1:
        images = images[:, ::-1]
    return images[:, :, ::-1] if index & 2 else images
