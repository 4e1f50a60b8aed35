"""What every data set yields: one record a patch, its bytes read only when they are asked for."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bcgan.errors import InputError
from bcgan.slides.files import IMAGE_SUFFIXES, ImageFile, fingerprint, image_files, printable

__all__ = [
    "CLASSES", "IMAGE_SUFFIXES", "UNKNOWN", "ImageFile", "Place", "Record", "fingerprint", "image_files", "label_of",
    "place_of", "printable", "slide_of",
]  # fmt: skip
CLASSES = ("benign", "malignant")  # labels 0 and 1
UNKNOWN = -1  # x and y of a patch whose place in the slide nobody recorded
PLACE = re.compile(r"(?<=.)_x(\d{1,9})_y(\d{1,9})(_.*)?$", re.DOTALL)  # as the public archive's file names have it
QUPATH = re.compile(
    r"(?P<slide>.+) \[(?:d=(?P<finer>\d{1,4}(?:\.\d+)?),)?x=(?P<x>\d{1,9}),y=(?P<y>\d{1,9}),w=\d+,h=\d+"
    r"(?P<layer>(?:,[zt]=\d+)*)\](?:\.ome)?",
    re.DOTALL,
)  # as QuPath names the tiles that it exports


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


def slide_of(keys: Iterable[str]) -> list[str]:
    """The slide of each patch whose place is known: its key up to the place. A patient may have several."""
    return [PLACE.sub("", key) for key in keys]


class Place(NamedTuple):
    """x, y: the upper left corner, in the patch's own pixels. slide: the name of the slide, a layer of it with the
    layer. finer: pixels in which the slide counts, for each of the patch's own."""

    x: int
    y: int
    slide: str
    finer: float


def place_of(name: str) -> Place | None:
    """Where a patch lies, by its name; None: it does not say.

    Args:
        name: string. `<slide>_x<x>_y<y>`, whatever follows an underscore; or `<slide> [x=<x>,y=<y>,w=<w>,h=<h>]`, in
            pixels of the slide, d= before them being how many of these make one of the patch's.
    """
    if found := QUPATH.fullmatch(name):
        finer = float(found["finer"] or 1)
        x, y = (round(int(found[side]) / finer) if finer else 0 for side in "xy")
        return Place(x, y, found["slide"] + found["layer"], finer) if finer else None
    found = PLACE.search(name)
    return found and Place(int(found[1]), int(found[2]), name[: found.start()], 1.0)


def label_of(text: str, path: str) -> int:
    """0 (benign) or 1 (malignant) from a class folder's name or a file name's class digit."""
    label = {"0": 0, "benign": 0, "1": 1, "malignant": 1}.get(text.lower())
    if label is None:
        raise InputError(
            f"{path}: label {text!r} is none of 0, 1, benign, malignant. Rename or remove that file, or its folder."
        )
    return label
