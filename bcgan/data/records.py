"""The records that all data sets are read as: one for each patch, whose image is read on demand."""

from collections.abc import Callable
from typing import NamedTuple

from bcgan.errors import InputError

UNKNOWN = -1  # x and y of a patch without coordinates
LABELS = {"0": 0, "benign": 0, "1": 1, "malignant": 1}


class Record(NamedTuple):
    """A patch before it is decoded."""

    key: str  # unique in its data set
    path: str  # for display; `archive.zip!member` inside an archive
    source: str  # name of the folder or archive
    patient: str
    label: int  # index into the classes of the experiment
    x: int  # upper left corner in the slide, pixels at the scale of the patch, or UNKNOWN
    y: int
    official_split: str  # role that the authors of the data set assigned; "" if none
    read: Callable[[], bytes]  # returns the encoded image; raises OSError or ValueError
    mpp: float | None = None  # microns per pixel; `None` if the data set does not state it


def parse_label(text: str, path: str) -> int:
    """Return 0 (benign) or 1 (malignant) for the name of a class.

    Raises:
        InputError: If the name is no class.
    """
    label = LABELS.get(text.lower())
    if label is None:
        raise InputError(
            f"{path}: label {text!r} is none of 0, 1, benign, malignant. Rename or remove that file, or its folder."
        )
    return label
