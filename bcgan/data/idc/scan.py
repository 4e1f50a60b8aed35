"""Breast Histopathology Images (invasive ductal carcinoma), read from the public archive's layout.

`<patient>/<class>/<patient>_idx5_x<x>_y<y>_class<class>.png`, in folders, in zip archives, or in several of them.
The public archive holds everything twice: the copy below `IDC_regular_ps50_idx5/` repeats the file names, and
so does a patch that two of the given archives share. The first by name counts, the others are left out.
"""

import logging
import re
import unicodedata
from pathlib import Path

from bcgan.data.patients import normalize_patient
from bcgan.data.records import Record, label_of
from bcgan.errors import InputError
from bcgan.slides.files import image_files

NATIVE_SIZE = 50
MICRONS = 4.0  # per pixel, about: 10x brought to a quarter
OFFICIAL_LISTS = Path(__file__).parent / "official"  # Janowczyk and Madabhushi (2016): 84 / 29 / 49 patients
NAME = re.compile(
    r"(?:^|/)(?P<key>(?P<patient>[^/]+)_idx\d+_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<label>[^./]+))\.png$", re.IGNORECASE
)

log = logging.getLogger("bcgan")


def records(places: tuple[Path, ...]) -> list[Record]:
    """Every patch once, in the order of the file names.

    Raises:
        InputError: a place without a single patch, or a label outside {0, 1}.
    """
    by_key: dict[str, Record] = {}
    copies = foreign = 0
    for file in image_files(places):
        match = NAME.search(unicodedata.normalize("NFC", file.name))
        if match is None:
            foreign += 1
            continue
        key = match["key"]
        if key in by_key:
            copies += 1
            continue
        label = label_of(match["label"], file.path)
        by_key[key] = Record(
            key,
            file.path,
            file.source,
            normalize_patient(match["patient"]),
            label,
            int(match["x"]),
            int(match["y"]),
            "",
            file.read,
            MICRONS,
        )
    if copies:
        log.info("idc: %d files repeat a patch that was read already, as the nested copy does: left out", copies)
    if foreign:
        log.warning("idc: %d image files are not named <patient>_idx5_x<x>_y<y>_class<c>.png: left out", foreign)
    if not by_key:
        where = ", ".join(map(str, places))
        raise InputError(
            f"data.dir: {where} holds no file named <patient>_idx5_x<x>_y<y>_class<c>.png. "
            "Give the folder or archive of the Breast Histopathology Images."
        )
    return [by_key[key] for key in sorted(by_key)]
