"""BreaKHis (Spanhol et al. 2016), read from the public archive's own folders and file names.

`SOB_M_DC-14-2523-40-001.png` is: surgical open biopsy, malignant, ductal carcinoma, year 14, slide 2523 (the
patient), magnification 40, image 001. Patient 13412 appears under two tumour types and counts once.
"""

import re
from pathlib import Path

from bcgan.data.records import UNKNOWN, Record, image_files
from bcgan.errors import InputError

NAME = re.compile(
    r"(?P<key>SOB_(?P<label>[BM])_(?P<tumour>[A-Z]+)-(?P<year>\d+)-(?P<slide>[0-9A-Z]+)-"
    r"(?P<magnification>\d+)-\d+)\.png$"
)
TUMOURS = {
    "A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes_tumor", "TA": "tubular_adenoma",
    "DC": "ductal_carcinoma", "LC": "lobular_carcinoma", "MC": "mucinous_carcinoma", "PC": "papillary_carcinoma",
}  # fmt: skip
DIGITS = re.compile(r"^\d+")


def parse(name: str) -> dict[str, str] | None:
    """key, label ("B" or "M"), tumour, year, slide, patient and magnification of a file name; None for another."""
    match = NAME.search(name)
    if match is None:
        return None
    # A slide's letters tell cuts of one patient apart (22549AB, 22549CD); the digits are the patient.
    patient = DIGITS.match(match["slide"])
    return match.groupdict() | {"patient": patient[0] if patient else match["slide"]}


def records(places: tuple[Path, ...], magnification: int | None = None) -> list[Record]:
    """Every image once, or those of one magnification.

    Raises:
        InputError: no image of that magnification in any of the places.
    """
    found = {}
    for file in image_files(places):
        fields = parse(file.name)
        if fields and (magnification is None or int(fields["magnification"]) == magnification):
            label = int(fields["label"] == "M")
            found.setdefault(
                fields["key"],
                Record(
                    fields["key"],
                    file.path,
                    file.source,
                    fields["patient"],
                    label,
                    UNKNOWN,
                    UNKNOWN,
                    "",
                    file.read,
                ),
            )
    if not found:
        scale = f" at {magnification}X" if magnification else ""
        raise InputError(
            f"data.dir: {', '.join(map(str, places))} holds no BreaKHis image{scale}. "
            "Give the folder BreaKHis_v1 or a zip of it, and one of the magnifications 40, 100, 200, 400."
        )
    return [found[key] for key in sorted(found)]
