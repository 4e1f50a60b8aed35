"""Load patches to compare two forms of a network on, such as a Keras model and its LiteRT file."""

import numpy as np

from bcgan.data.histology_phantom import tissue
from bcgan.errors import InputError
from bcgan.slides.files import find_images
from bcgan.slides.patches import read_patch
from bcgan.slides.scale import ModelScale

CHECK_PATCHES = 256


def load_check_patches(folder: str | None, scale: ModelScale) -> np.ndarray:
    """Load the first CHECK_PATCHES images of a folder, or draw as many phantom patches; uint8, (n, size, size, 3).

    Raises:
        InputError: If an image in the folder cannot be read or is larger than a patch.
    """
    if folder is None:
        return tissue.example_patches(CHECK_PATCHES, scale.size)[0]
    try:
        return np.stack([read_patch(image, scale) for image in find_images([folder])[:CHECK_PATCHES]])
    except (OSError, ValueError) as error:
        raise InputError(f"{error}.") from error
