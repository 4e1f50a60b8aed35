"""Turn a decoded image into a square uint8 patch: pad or crop, resize, filter; write it as PNG."""

import struct
import zlib

import cv2
import numpy as np

from bcgan.settings import Preprocess
from bcgan.slides.decode import WHITE

PNG_HEADER = 33  # bytes of a PNG's signature and its first chunk, IHDR


def to_square(image: np.ndarray, native: int | None, size: int) -> np.ndarray:
    """Return a patch of size x size pixels.

    An image smaller than `native` is padded with white, the color of empty glass, below and to the right, as its
    coordinates are those of its upper left corner. A larger one, or any if `native` is `None`, is cropped to its
    central square.

    Args:
        image: uint8, (height, width, 3).
        native: Side of a complete patch of the data set, pixels.
        size: Side of the result, pixels.
    """
    height, width = image.shape[:2]
    crop = native or min(height, width)
    if height > crop or width > crop:
        top, left = max(0, height - crop) // 2, max(0, width - crop) // 2
        image = image[top : top + crop, left : left + crop]
    below, right = crop - image.shape[0], crop - image.shape[1]
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=WHITE)
    if crop == size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if crop > size else cv2.INTER_CUBIC)


def resize_patches(patches: np.ndarray, size: int) -> np.ndarray:
    """Resize patches, uint8 (n, side, side, 3), to size x size pixels; without a copy if they have that size."""
    if patches.shape[1] == size:
        return patches
    return np.stack([to_square(patch, None, size) for patch in patches])


def encode_png(image: np.ndarray, mpp: float | None = None) -> bytes:
    """Return an RGB image, uint8 (height, width, 3), as a PNG file that states `mpp`, microns per pixel, if given."""
    data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    if mpp is None:
        return data
    chunk = b"pHYs" + struct.pack(">IIB", *[round(1e6 / mpp)] * 2, 1)  # pixels a meter
    return data[:PNG_HEADER] + struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[PNG_HEADER:]


def enhance(image: np.ndarray, settings: Preprocess) -> np.ndarray:
    """Apply the filters of the settings: 3x3 smoothing, and histogram equalization (CLAHE) of the lightness."""
    if settings.blur == "gaussian":
        image = cv2.GaussianBlur(image, (3, 3), 0)
    elif settings.blur == "median":
        image = cv2.medianBlur(image, 3)
    if settings.clahe:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(2, 2)).apply(lab[..., 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return image
