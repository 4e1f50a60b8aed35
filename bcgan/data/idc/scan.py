"""Breast Histopathology Images (invasive ductal carcinoma), read from the public archive's layout.

`<patient>/<class>/<patient>_idx5_x<x>_y<y>_class<class>.png`, in folders, in zip archives, or in several of them.
The public archive contains every file twice: the copy below `IDC_regular_ps50_idx5/` has the same file names. Of
files with the same name, in one archive or in several, only the first in the order of names is used; they have to be
copies.
"""

import logging
import re
import unicodedata
from pathlib import Path

from bcgan.data.copies import check_copy
from bcgan.data.patients import normalize_patient
from bcgan.data.records import LABELS, Record, parse_label
from bcgan.errors import InputError
from bcgan.slides.files import ImageFile, iterate_images, strip_suffixes

NATIVE_SIZE = 50
MICRONS = 4.0  # per pixel, approximately: 10x, downsampled by four
OFFICIAL_LISTS = Path(__file__).parent / "official"  # Janowczyk and Madabhushi (2016): 84 / 29 / 49 patients
NAME = re.compile(
    r"(?:^|/)(?P<key>(?P<patient>[^/]+)_idx\d+_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<label>[^./]+))$", re.IGNORECASE
)

log = logging.getLogger("bcgan")


def records(paths: tuple[Path, ...], mpp: float = MICRONS) -> list[Record]:
    """Return a record of every patch, in the order of the file names; copies are left out.

    Args:
        paths: Folders and archives.
        mpp: Microns per pixel; the public archive's by default.

    Raises:
        InputError: If there is no patch, a label is neither 0 nor 1 or not that of the folder, or two images have one
            name.
    """
    by_key: dict[str, tuple[ImageFile, Record]] = {}
    misplaced: list[str] = []
    misnamed: list[str] = []
    num_copies = 0
    for file in iterate_images(paths):
        match = NAME.search(strip_suffixes(unicodedata.normalize("NFC", file.name)))
        if match is None:
            misnamed.append(file.path)
            continue
        key = match["key"]
        if key in by_key:
            check_copy(file, by_key[key][0])
            num_copies += 1
            continue
        patient, label = normalize_patient(match["patient"]), parse_label(match["label"], file.path)
        if _folder_label(file.name, match["patient"]) not in (None, label):
            misplaced.append(file.path)
        places = int(match["x"]), int(match["y"])
        by_key[key] = file, Record(key, file.path, file.source, patient, label, *places, "", file.read, mpp)
    if misplaced:
        raise InputError(
            f"{misplaced[0]}: its folder names another class than its file name, as those of {len(misplaced)} patches "
            "do. Move or rename them, or leave them out."
        )
    if num_copies:
        log.info("idc: %d files are copies, with the name of an earlier file: left out", num_copies)
    if misnamed:
        log.warning(
            "idc: %d images are not named <patient>_idx5_x<x>_y<y>_class<c>: left out, the first: %s",
            len(misnamed), misnamed[0],
        )  # fmt: skip
    if not by_key:
        sources = ", ".join(map(str, paths))
        raise InputError(
            f"data.dir: {sources} has no file named <patient>_idx5_x<x>_y<y>_class<c>.png. "
            "Give the folder or archive of the Breast Histopathology Images."
        )
    return [by_key[key][1] for key in sorted(by_key)]


def _folder_label(name: str, patient: str) -> int | None:
    """Return the label that the folder of a file names; `None` if it names none, or may be that of the patient."""
    folders = name.split("/")[:-1]
    if not folders or (folders[-1] == patient and folders[-2:-1] != [patient]):
        return None
    return LABELS.get(folders[-1].lower())
