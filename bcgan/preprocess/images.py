"""From an encoded file to a square uint8 patch: decode, pad or cut, resize, filter. OpenCV does the work."""

import io
import math
import struct
import warnings

import cv2
import numpy as np
from PIL import Image

from bcgan.experiment import Preprocess

LARGEST_IMAGE = 2**26  # pixels
DENSEST = 2_000  # pixels a byte of the file; no format packs plain white closer, and a small file can claim gigabytes
WHITE = (255, 255, 255)
GAN_SIZE = 50  # side that the generator makes and the discriminator takes, pixels


def decode(data: bytes, path: str) -> np.ndarray:
    """An encoded PNG, JPEG or TIFF as uint8 RGB, (height, width, 3), values 0 to 255.

    16-bit images are scaled to 8 bits, grey ones repeated, transparency is laid on white.

    Raises:
        ValueError: not an image, a truncated one, or one that claims more than LARGEST_IMAGE pixels.
    """
    if not data:
        raise ValueError(f"{path} is empty")
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        _check_claim(math.prod(struct.unpack(">II", data[16:24])) if len(data) >= 24 else 0, data, path)
        # OpenCV fills what is missing with black and says nothing, and takes memory for any length that a chunk claims.
        if not _is_whole(data):
            raise ValueError(f"{path} is a truncated PNG")
    else:
        _check_claim(_claimed(data, path), data, path)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path} cannot be decoded ({error.err})") from error
    if image is None:
        raise ValueError(f"{path} is not an image that OpenCV can decode")
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"{path} holds {image.dtype} pixels, not 8 or 16 bits")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        image = np.rint(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_whole(png: bytes) -> bool:
    """Whether every chunk lies inside the file, up to the one that ends it."""
    place = 8
    while place + 12 <= len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        place += 12 + length
        if kind == b"IEND":
            return place <= len(png)
    return False


def _claimed(data: bytes, path: str) -> int:
    """How many pixels a header claims; Pillow reads no more than that."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as header:
            return math.prod(header.size)
    except Exception as error:  # a broken header ends in whatever its format's reader raises
        raise ValueError(f"{path} is not an image that can be read ({type(error).__name__})") from error


def _check_claim(pixels: int, data: bytes, path: str) -> None:
    if not 0 < pixels <= DENSEST * len(data):
        raise ValueError(f"{path} claims more than a file of {len(data)} bytes can hold, {pixels} pixels, or none")
    if pixels > LARGEST_IMAGE:
        raise ValueError(
            f"{path} has {pixels:,} pixels, and {LARGEST_IMAGE:,} are read at once. Cut it, or make it a tiled TIFF, "
            "which is read as a slide"
        )


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
    if settings.smoothing == "gaussian":
        image = cv2.GaussianBlur(image, (3, 3), 0)
    elif settings.smoothing == "median":
        image = cv2.medianBlur(image, 3)
    if settings.clahe:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(2, 2)).apply(lab[..., 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return image
