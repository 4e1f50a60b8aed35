"""Tell copies of an image, which count once, from other images of the same name."""

import numpy as np

from bcgan.errors import InputError
from bcgan.slides.decode import decode_image
from bcgan.slides.files import ImageFile


def check_copy(file: ImageFile, earlier: ImageFile) -> None:
    """Check that a file is a copy of an earlier one of the same name: the same bytes, or else the same pixels.

    One of them that cannot be read is taken for a copy: the audit names it if it is the first.

    Raises:
        InputError: If they are two images.
    """
    if file.crc is not None and (file.crc, file.size) == (earlier.crc, earlier.size):
        return
    try:
        contents = file.read(), earlier.read()
        if contents[0] == contents[1]:
            return
        first, second = (decode_image(content, file.path) for content in contents)
    except (OSError, ValueError):
        return
    if not np.array_equal(first, second):
        raise InputError(
            f"{earlier.path} and {file.path} are different images of one name, of which one would be left out. Rename "
            "the slides or patients of one of them (of bcgan tile's outputs, cut them again), or leave one out."
        )
