"""Areas that patches and tiles stand for, so that tissue which several of them show counts once."""

import numpy as np
from scipy.spatial import cKDTree


def divide_area(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the area of each of n rectangles, square pixels, float (n,), without what others have of it.

    A pixel that lies in k rectangles is a k-th of a pixel for each, so that the sum is the area of their union.

    Args:
        corners: integers, (n, 2). x and y of the upper left corners.
        sizes: integers, (n, 2). Width and height.
    """
    areas = sizes.prod(axis=1).astype(float)
    if len(corners) < 2:
        return areas
    # Rectangles that overlap have corners less than a side apart.
    neighbors = cKDTree(corners).query_ball_point(corners, sizes.max() - 1, p=np.inf)
    for index in range(len(corners)):
        near = [row for row in neighbors[index] if row != index]
        begin = np.maximum(corners[near] - corners[index], 0)
        end = np.minimum(corners[near] + sizes[near] - corners[index], sizes[index])
        overlaps = (begin < end).all(axis=1)
        if not overlaps.any():
            continue
        count = np.ones(sizes[index][::-1])  # (height, width); rectangles that each pixel lies in
        for (left, top), (right, bottom) in zip(begin[overlaps], end[overlaps], strict=True):
            count[top:bottom, left:right] += 1
        areas[index] = (1 / count).sum()
    return areas
