"""From a decoded image to a square uint8 patch: pad or cut, resize, filter. OpenCV does the work."""

import cv2
import numpy as np

from bcgan.settings import Preprocess
from bcgan.slides.decode import WHITE

GAN_SIZE = 50  # side that the generator makes and the discriminator takes, pixels


def fit(image: np.ndarray, native: int | None, size: int) -> np.ndarray:
    """A patch of size x size pixels.

    A patch narrower than `native` stays in the upper left corner, where its coordinates put it, and is padded
    with white, the colour of empty glass. One larger, or any where `native` is None, is cut to its central square.

    Args:
        image: uint8, (height, width, 3).
        native: int. Side of a whole patch of this data set, pixels.
        size: int. Side wanted, pixels.
    """
    height, width = image.shape[:2]
    side = native or min(height, width)
    if height > side or width > side:
        top, left = max(0, height - side) // 2, max(0, width - side) // 2
        image = image[top : top + side, left : left + side]
    below, right = side - image.shape[0], side - image.shape[1]
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=WHITE)
    if side == size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def at_size(patches: np.ndarray, size: int) -> np.ndarray:
    """The patches at another size, by area or cubic; as they are, still memory-mapped, where the size is theirs."""
    if patches.shape[1] == size:
        return patches
    return np.stack([fit(patch, None, size) for patch in patches])


def enhance(image: np.ndarray, settings: Preprocess) -> np.ndarray:
    """Optional smoothing (3x3) and contrast-limited adaptive histogram equalisation of the lightness alone."""
    if settings.blur == "gaussian":
        image = cv2.GaussianBlur(image, (3, 3), 0)
    elif settings.blur == "median":
        image = cv2.medianBlur(image, 3)
    if settings.clahe:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(2, 2)).apply(lab[..., 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return image
