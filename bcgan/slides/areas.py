"""Areas that patches and tiles stand for, so that tissue which several of them show counts once."""

import numpy as np
from scipy.spatial import cKDTree


def divide_area(corners: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return the area of each of n rectangles, square pixels, float (n,), without what others have of it.

    A pixel that lies in k rectangles is a k-th of a pixel for each, so that the sum is the area of their union.

    Args:
        corners: integers, (n, 2). x and y of the upper left corners.
        sides: integers, (n, 2). Width and height.
    """
    areas = sides.prod(axis=1).astype(float)
    if len(corners) < 2:
        return areas
    # Rectangles that overlap have corners less than a side apart.
    neighbors = cKDTree(corners).query_ball_point(corners, sides.max() - 1, p=np.inf)
    for index in range(len(corners)):
        others = [other for other in neighbors[index] if other != index]
        begin = np.maximum(corners[others] - corners[index], 0)
        end = np.minimum(corners[others] + sides[others] - corners[index], sides[index])
        overlaps = (begin < end).all(axis=1)
        if not overlaps.any():
            continue
        count = np.ones(sides[index][::-1])  # (height, width); rectangles that each pixel lies in
        for (left, top), (right, bottom) in zip(begin[overlaps], end[overlaps], strict=True):
            count[top:bottom, left:right] += 1
        areas[index] = (1 / count).sum()
    return areas
