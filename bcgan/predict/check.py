"""Patches on which two forms of a network are compared."""

import numpy as np

from bcgan.data.histology_phantom import tissue
from bcgan.errors import InputError
from bcgan.slides.files import find_images
from bcgan.slides.patches import read_patch
from bcgan.slides.scale import ModelScale

CHECK_PATCHES = 256


def load_check_patches(folder: str | None, scale: ModelScale) -> np.ndarray:
    """Patches on which two forms of a network are compared: the first of a folder, or phantom tissue; uint8.

    Raises:
        InputError: If an image in the folder is no patch.
    """
    if folder is None:
        return tissue.draw(CHECK_PATCHES, scale.size)[0]
    try:
        return np.stack([read_patch(image, scale) for image in find_images([folder])[:CHECK_PATCHES]])
    except (OSError, ValueError) as error:
        raise InputError(f"{error}.") from error
