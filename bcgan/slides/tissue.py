"""Find stained tissue: the background is estimated from the image, and pen marks and unscanned areas are left out."""

import cv2
import numpy as np

MIN_TISSUE_FRACTION = 0.2  # of a patch's pixels that have to be tissue for it to be scored
STAIN_RATIO = 1.06  # of the brighter of red and blue to green, relative to the background; glass has 1
MIN_STAIN = 0.02  # of the background's light that green is darker than red or blue; black ink has noise alone
MIN_RED_RATIO = 0.75  # of red to green; no stain absorbs red so much more than green, green and blue ink do
BRIGHT = 205  # grey level of the darkest channel from which on flat pixels may be tinted glass, up to TINT_RATIO
TINT_RATIO = 1.14
EMPTY_FRACTION = 0.98  # of an image's pixels that are bright and flat where it shows nothing at all
DARK_RATIO = 0.86  # darkest channel relative to the background, below which a pixel is no glass
MIN_BACKGROUND = 150  # grey level of the darkest channel of glass
MAX_BACKGROUND_CHROMA = 40  # grey levels between the channels of glass
FLAT_RANGE = 6  # grey levels within 5x5 pixels of glass
MIN_BACKGROUND_FRACTION = 0.002  # of an image's pixels from which the background is estimated
UNSCANNED_PX = 9  # side of the smallest area that was not scanned; nothing in tissue is so black and so large
UNSCANNED = 30  # grey level of the brightest channel where nothing was scanned
COLOURLESS = 1.0  # grey levels between a pixel's channels, mean of what is no glass; stained patches have 1.6 and more
GLASS = 220  # grey level of the darkest channel above which a pixel is glass where colour is measured
THUMBNAIL_PX = 1024  # longer side of what the background is estimated on, pixels
ROWS = 1024  # of an image that are masked at once
WHITE = np.full(3, 255, np.float32)


def estimate_background(image: np.ndarray) -> np.ndarray:
    """Estimate the colour of empty glass.

    Args:
        image: uint8 RGB, (height, width, 3).

    Returns:
        float32, (3,): the median colour of bright, flat, pale pixels; white where there are too few of them.
    """
    step = _thumbnail_step(image)
    image = np.ascontiguousarray(image[::step, ::step])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    kernel = np.ones((5, 5), np.uint8)
    flat = cv2.subtract(cv2.dilate(grey, kernel), cv2.erode(grey, kernel)) <= FLAT_RANGE
    darkest, brightest = image.min(-1), image.max(-1)
    ratio = _stain_ratio(image, WHITE)
    pale = (brightest - darkest <= MAX_BACKGROUND_CHROMA) & (
        ratio < np.where(darkest >= BRIGHT, TINT_RATIO, STAIN_RATIO)
    )
    glass = flat & (darkest >= MIN_BACKGROUND)
    if glass.mean() < EMPTY_FRACTION:  # else nothing is on it, whatever its tint
        glass &= pale
    if glass.sum() < max(25, MIN_BACKGROUND_FRACTION * glass.size):
        return WHITE
    return np.median(image[glass], axis=0).astype(np.float32)


def tissue_mask(image: np.ndarray, background: np.ndarray | None = None) -> np.ndarray:
    """Tell stained tissue from glass, pen marks, edges of coverslips and what was not scanned.

    Tissue in haematoxylin and eosin absorbs green more than red or blue. A grey image has no stain: there, tissue is
    what is darker than the background.

    Args:
        image: uint8 RGB, (height, width, 3).
        background: float, (3,). Colour of empty glass. Defaults to `estimate_background` of the image.

    Returns:
        bool, (height, width).
    """
    background = estimate_background(image) if background is None else background
    step = _thumbnail_step(image)
    mark = _is_dark if is_colourless(image[None, ::step, ::step])[0] else _is_stained
    mask = np.empty(image.shape[:2], bool)
    for start in range(0, len(image), ROWS):
        rows = image[start : start + ROWS]
        mask[start : start + ROWS] = mark(rows, background) & (rows.max(-1) >= UNSCANNED)
    return mask


def fill_unscanned(image: np.ndarray) -> np.ndarray:
    """Fill areas that were not scanned, which some formats leave black, with the colour of empty glass.

    Args:
        image: uint8 RGB, (height, width, 3); changed in place where there are such areas.
    """
    dark = (image.max(-1) < UNSCANNED).astype(np.uint8)
    if dark.any():
        kernel = np.ones((UNSCANNED_PX, UNSCANNED_PX), np.uint8)
        areas = cv2.morphologyEx(dark, cv2.MORPH_OPEN, kernel, borderType=cv2.BORDER_REPLICATE).astype(bool)
        if areas.any() and not areas.all():
            image = image if image.flags.writeable else image.copy()
            image[areas] = np.rint(estimate_background(image)).astype(np.uint8)
    return image


def tissue_fraction(patches: np.ndarray) -> np.ndarray:
    """The share of each patch that is tissue, each with a background of its own; float, (n,).

    Args:
        patches: uint8 RGB, (n, height, width, 3).
    """
    return np.array([tissue_mask(patch).mean() for patch in patches])


def _thumbnail_step(image: np.ndarray) -> int:
    return max(1, max(image.shape[:2]) // THUMBNAIL_PX)


def _stain_ratio(image: np.ndarray, background: np.ndarray) -> np.ndarray:
    red, green, blue = _relative(image, background)
    return np.maximum(red, blue) / green


def _relative(image: np.ndarray, background: np.ndarray) -> list[np.ndarray]:
    return [np.maximum(image[..., channel], 1) / background[channel] for channel in range(3)]


def _is_stained(image: np.ndarray, background: np.ndarray) -> np.ndarray:
    red, green, blue = _relative(image, background)
    stained = np.maximum(red, blue) >= np.maximum(STAIN_RATIO * green, green + MIN_STAIN)
    red_pen = (red - green > 0.4) & (blue - green < 0.1 * (red - green)) & (green < 0.4)
    return stained & (red >= MIN_RED_RATIO * green) & ~red_pen


def _is_dark(image: np.ndarray, background: np.ndarray) -> np.ndarray:
    return (image / background).min(-1) < DARK_RATIO


def is_colourless(images: np.ndarray) -> np.ndarray:
    """Whether what is no glass is grey, as no stain is; bool, (n,).

    Args:
        images: uint8 RGB, (n, height, width, 3).
    """
    visible = (images.min(-1) < GLASS) & (images.max(-1) >= UNSCANNED)
    spread = (np.ptp(images, -1) * visible).sum((1, 2), dtype=np.int64)
    return visible.any((1, 2)) & (spread < COLOURLESS * visible.sum((1, 2)))
