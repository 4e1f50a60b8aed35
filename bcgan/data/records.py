"""What every data set yields: one record a patch, its bytes read only when they are asked for."""

from collections.abc import Callable
from typing import NamedTuple

from bcgan.errors import InputError

CLASSES = ("benign", "malignant")  # labels 0 and 1
UNKNOWN = -1  # x and y of a patch whose place in the slide nobody recorded


class Record(NamedTuple):
    """A patch before it is decoded.

    key: unique in its data set. path: where it came from, `archive.zip!member` inside an archive.
    source: the folder's or archive's name. x, y: the upper left corner in the slide, pixels at the patch's
    own scale, or UNKNOWN. given: the role that the data set's authors gave it, or "".
    read: gives the encoded image's bytes; raises OSError or ValueError where it cannot.
    mpp: microns per pixel of this image; None where the data set does not know it.
    """

    key: str
    path: str
    source: str
    patient: str
    label: int
    x: int
    y: int
    given: str
    read: Callable[[], bytes]
    mpp: float | None = None


def label_of(text: str, path: str) -> int:
    """0 (benign) or 1 (malignant) from a class folder's name or a file name's class digit."""
    label = {"0": 0, "benign": 0, "1": 1, "malignant": 1}.get(text.lower())
    if label is None:
        raise InputError(
            f"{path}: label {text!r} is none of 0, 1, benign, malignant. Rename or remove that file, or its folder."
        )
    return label
