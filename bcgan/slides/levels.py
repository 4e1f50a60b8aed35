"""Find out whether a level of a pyramid shows the picture of the next finer one."""

import cv2
import numpy as np

from bcgan.slides.base import SlideImage

CELL = 16  # side of the squares whose mean colors are compared, pixels of the coarser level
MIN_CELLS = 4  # of a small level, along each side
WHOLE_PX = 2**24  # pixels of the finer level up to which all is compared; else WINDOWS x WINDOWS parts of WINDOW_PX
WINDOWS, WINDOW_PX = 6, 64
MAX_DIFFERENCE = 20.0  # of mean colors, gray levels; the same picture has about 5, if every other pixel was left out


def is_same_picture(image: SlideImage, level: int) -> bool:
    """Return whether a level shows the picture of the next finer one, by the mean colors of small squares.

    Strict, as a level that is left out costs time alone.
    """
    width, height = image.sizes[level]
    across, down = ([(0, side)] for side in (width, height))
    if image.sizes[level - 1][0] * image.sizes[level - 1][1] > WHOLE_PX:
        across, down = (_spread_windows(side) for side in (width, height))
    try:
        return all(_is_same_part(image, level, columns, rows) for rows in down for columns in across)
    except ValueError:  # it cannot be read
        return False


def _spread_windows(side: int) -> list[tuple[int, int]]:
    """Return (begin, end) of windows that are spread over a side, pixels."""
    starts = np.linspace(0, max(0, side - WINDOW_PX), WINDOWS).astype(int).tolist()
    return [(start, min(side, start + WINDOW_PX)) for start in starts]


def _is_same_part(image: SlideImage, level: int, columns: tuple[int, int], rows: tuple[int, int]) -> bool:
    """Return whether a part of a level, (begin, end) in its pixels, shows what the next finer one does."""
    (left, right), (top, bottom) = columns, rows
    across, down = (fine / coarse for fine, coarse in zip(image.sizes[level - 1], image.sizes[level], strict=True))
    x, y, end_x, end_y = round(left * across), round(top * down), round(right * across), round(bottom * down)
    cells = tuple(max(min(MIN_CELLS, side), side // CELL) for side in (right - left, bottom - top))
    coarse = image.read_region(level, left, top, right - left, bottom - top)
    fine = image.read_region(level - 1, x, y, end_x - x, end_y - y)
    means = [cv2.resize(part, cells, interpolation=cv2.INTER_AREA).astype(np.float32) for part in (coarse, fine)]
    return float(np.abs(means[0] - means[1]).max()) <= MAX_DIFFERENCE
