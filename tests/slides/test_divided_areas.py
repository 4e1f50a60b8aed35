"""The areas that rectangles stand for add up to the area that they cover, however they overlap."""

import numpy as np
import pytest

from bcgan.slides.areas import divide_area


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("seed", range(3))
def test_areas_add_up_to_the_area_that_is_covered(count, seed):
    rng = np.random.default_rng(seed)
    corners, sides = rng.integers(-20, 30, (count, 2)), rng.integers(1, 14, (count, 2))
    is_covered = np.zeros((64, 64), bool)
    for (x, y), (width, height) in zip(corners + 20, sides, strict=True):
        is_covered[y : y + height, x : x + width] = True
    areas = divide_area(corners, sides)
    assert areas.sum() == pytest.approx(is_covered.sum())
    assert (areas <= sides.prod(1)).all()


def test_what_two_rectangles_share_is_divided():
    corners, sides = np.array([[0, 0], [5, 0], [0, 0], [10**9, 7]]), np.array([[10, 4], [10, 4], [1, 1], [3, 3]])
    assert divide_area(corners, sides) == pytest.approx([40 - 20 / 2 - 1 / 2, 30, 0.5, 9])
