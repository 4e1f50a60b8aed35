"""Find stained tissue: the background is estimated from the image, and pen marks and unscanned areas are left out."""

import cv2
import numpy as np

STAIN_RATIO = 1.06  # of the brighter of red and blue to green, relative to the background; glass has 1
MIN_STAIN = 0.02  # of the background's light that green is darker than red or blue; in black ink only noise differs
MIN_RED_RATIO = 0.75  # of red to green; green and blue ink absorb so much more red than green, stains do not
MIN_TINTED_LEVEL = 205  # gray level of the darkest channel from which on flat pixels up to TINT_RATIO can be glass
TINT_RATIO = 1.14
EMPTY_FRACTION = 0.98  # of an image's pixels that are bright and flat if it shows nothing but glass
DARK_RATIO = 0.86  # darkest channel relative to the background, below which a pixel is no glass
MIN_BACKGROUND = 150  # gray level of the darkest channel of glass
MAX_BACKGROUND_CHROMA = 40  # gray levels between the channels of glass
FLAT_RANGE = 6  # gray levels within 5x5 pixels of glass
MIN_BACKGROUND_FRACTION = 0.002  # of an image's pixels from which the background is estimated
UNSCANNED_PX = 9  # side of the smallest area that was not scanned; nothing in tissue is so black and so large
MAX_UNSCANNED_LEVEL = 30  # gray level of the brightest channel where nothing was scanned
MIN_COLOR_RANGE = 1.0  # gray levels between a pixel's channels, mean of what is no glass; stained patches have 1.6
MIN_GLASS_LEVEL = 220  # gray level of the darkest channel above which a pixel is glass where color is measured
THUMBNAIL_PX = 1024  # longer side of what the background is estimated on, pixels
CHUNK_ROWS = 1024  # of an image that are masked at once
WHITE = np.full(3, 255, np.float32)


def estimate_background(image: np.ndarray) -> np.ndarray:
    """Estimate the color of empty glass.

    Args:
        image: uint8 RGB, (height, width, 3).

    Returns:
        float32, (3,): the median color of bright, flat, pale pixels; white where there are too few of them.
    """
    step = _thumbnail_step(image)
    image = np.ascontiguousarray(image[::step, ::step])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    kernel = np.ones((5, 5), np.uint8)
    flat = cv2.subtract(cv2.dilate(grey, kernel), cv2.erode(grey, kernel)) <= FLAT_RANGE
    darkest, brightest = image.min(-1), image.max(-1)
    red, green, blue = _relative_intensities(image, WHITE)
    max_ratio = np.where(darkest >= MIN_TINTED_LEVEL, TINT_RATIO, STAIN_RATIO)
    pale = (brightest - darkest <= MAX_BACKGROUND_CHROMA) & (np.maximum(red, blue) / green < max_ratio)
    glass = flat & (darkest >= MIN_BACKGROUND)
    if glass.mean() < EMPTY_FRACTION:  # else nothing is on it, whatever its tint
        glass &= pale
    if glass.sum() < max(25, MIN_BACKGROUND_FRACTION * glass.size):
        return WHITE
    return np.median(image[glass], axis=0).astype(np.float32)


def tissue_mask(image: np.ndarray, background: np.ndarray | None = None) -> np.ndarray:
    """Find stained tissue, as opposed to glass, pen marks, edges of coverslips and unscanned areas.

    Tissue in hematoxylin and eosin absorbs green more than red or blue. In a gray image, which has no stain, tissue is
    what is darker than the background.

    Args:
        image: uint8 RGB, (height, width, 3).
        background: float, (3,). Color of empty glass. Defaults to `estimate_background` of the image.

    Returns:
        bool, (height, width).
    """
    background = estimate_background(image) if background is None else background
    step = _thumbnail_step(image)
    is_tissue = _is_dark if is_colorless(image[None, ::step, ::step])[0] else _is_stained
    mask = np.empty(image.shape[:2], bool)
    for start in range(0, len(image), CHUNK_ROWS):
        rows = image[start : start + CHUNK_ROWS]
        mask[start : start + CHUNK_ROWS] = is_tissue(rows, background) & (rows.max(-1) >= MAX_UNSCANNED_LEVEL)
    return mask


def fill_unscanned(image: np.ndarray, background: np.ndarray | None = None) -> np.ndarray:
    """Fill areas that were not scanned, which some formats leave black, with the color of empty glass.

    Args:
        image: uint8 RGB, (height, width, 3).
        background: float, (3,). Color of the slide's empty glass, if the image is a part of it. Defaults to
            `estimate_background` of the image, which is left as it is if all of it is black.

    Returns:
        The filled image: `image` itself, or a copy if it is read-only.
    """
    dark = (image.max(-1) < MAX_UNSCANNED_LEVEL).astype(np.uint8)
    if dark.any():  # only large areas: small dark spots are tissue or ink
        kernel = np.ones((UNSCANNED_PX, UNSCANNED_PX), np.uint8)
        areas = cv2.morphologyEx(dark, cv2.MORPH_OPEN, kernel, borderType=cv2.BORDER_REPLICATE).astype(bool)
        if areas.any() and (background is not None or not areas.all()):
            image = image if image.flags.writeable else image.copy()
            color = estimate_background(image) if background is None else background
            image[areas] = np.rint(color).astype(np.uint8)
    return image


def tissue_fraction(patches: np.ndarray) -> np.ndarray:
    """Return the fraction of each patch that is tissue, with its own background; float, (n,).

    Args:
        patches: uint8 RGB, (n, height, width, 3).
    """
    return np.array([tissue_mask(patch).mean() for patch in patches])


def _thumbnail_step(image: np.ndarray) -> int:
    """Return n so that every n-th pixel of an image makes a thumbnail of about THUMBNAIL_PX."""
    return max(1, max(image.shape[:2]) // THUMBNAIL_PX)


def _relative_intensities(image: np.ndarray, background: np.ndarray) -> list[np.ndarray]:
    """Return red, green and blue as fractions of the background's, 1 for glass; float, (height, width) each."""
    return [np.maximum(image[..., channel], 1) / background[channel] for channel in range(3)]


def _is_stained(image: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return where an image shows stained tissue and not ink; arguments and result as of `tissue_mask`."""
    red, green, blue = _relative_intensities(image, background)
    stained = np.maximum(red, blue) >= np.maximum(STAIN_RATIO * green, green + MIN_STAIN)
    # Red ink absorbs nearly all green and as much blue; the stains absorb less blue than green.
    red_pen = (red - green > 0.4) & (blue - green < 0.1 * (red - green)) & (green < 0.4)
    return stained & (red >= MIN_RED_RATIO * green) & ~red_pen


def _is_dark(image: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return where a gray image is darker than its background; arguments and result as of `tissue_mask`."""
    return (image / background).min(-1) < DARK_RATIO


def is_colorless(images: np.ndarray) -> np.ndarray:
    """Return which images are grayscale, so that they show no stain; bool, (n,).

    In these, the pixels that are neither glass nor unscanned have nearly equal channels. An image without such pixels
    is not one of them.

    Args:
        images: uint8 RGB, (n, height, width, 3).
    """
    has_content = (images.min(-1) < MIN_GLASS_LEVEL) & (images.max(-1) >= MAX_UNSCANNED_LEVEL)
    summed_range = (np.ptp(images, -1) * has_content).sum((1, 2), dtype=np.int64)  # of the channels, over the pixels
    return has_content.any((1, 2)) & (summed_range < MIN_COLOR_RANGE * has_content.sum((1, 2)))
