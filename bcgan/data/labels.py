"""Read the labels of images from a table of images, labels and patients, and interpret the names of classes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bcgan.classes import CLASSES, ClassPairs, class_names, normalize_class
from bcgan.data.patients import check_patient, normalize_patient, normalize_text
from bcgan.data.records import UNKNOWN
from bcgan.errors import InputError
from bcgan.progress import log
from bcgan.slides.files import ImageFile
from bcgan.slides.kinds import plain_path
from bcgan.slides.tables import check_cell, check_columns, check_not_date, check_row, read_csv

COLUMNS = ("image", "label", "patient")
AXES = ("x", "y")
WORKBOOKS = (".xlsx", ".xlsm")
MAX_LISTED = 5  # images that a message lists
WHOLE_NUMBER = re.compile(r"(\d+)\.0+")  # a whole number as spreadsheets write it in a column of floats
PIXELS = re.compile(r"\d{1,9}(\.0*)?")
THOUSANDS = re.compile(r"[1-9]\d{0,2}\.000")  # 1000 in German, 1 in English
MAX_EXACT = 10**15  # spreadsheets round numbers with more digits


class Row(NamedTuple):
    """A row of a table of labels; x and y are UNKNOWN if the table does not have them."""

    number: int  # of the row in the file, for messages
    image: str
    label: int
    patient: str
    x: int
    y: int


class ClassNames:
    """The names that images may have for the classes, whatever their case and spacing.

    They are the names of the classes and their further names in `data.classes`. The labels 0, 1 and so on are accepted
    too, unless one of these names is a number, which could be meant as the label of another class.
    """

    def __init__(self, classes: ClassPairs):
        """Index the names in the setting `data.classes`, which is empty for benign and malignant."""
        self.names = class_names(classes)
        self.configured = {normalize_spelling(name): name for _, further in classes for name in further}
        self.label_of = {}
        for label, name in enumerate(self.names):
            further = dict(classes).get(name, ())
            self.label_of |= {normalize_spelling(spelling): label for spelling in (name, *further)}
        if not any(name.isdigit() for name in (*self.configured, *self.names)) or self.names == CLASSES:
            self.label_of = {str(label): label for label in range(len(self.names))} | self.label_of
        self.counts: Counter[str] = Counter()

    def label(self, name: str) -> int | None:
        """Return the label of a class's name; `None` for a name of no class."""
        self.counts[normalize_spelling(name)] += 1
        return self.label_of.get(normalize_spelling(name))

    def warn_of_unused(self, sources: str) -> None:
        """Warn of names in `data.classes` that no image has; `sources` is for the message."""
        unused = [name for key, name in self.configured.items() if key not in self.counts]
        if unused:
            log.warning("data.classes: no image of %s has the class %s", sources, ", ".join(map(repr, unused)))

    def log_numbers(self, sources: str) -> None:
        """Log which class each number that images have as a label is; `sources` is for the message."""
        numbers = [name for name in self.label_of if name.isdecimal() and name in self.counts]
        if numbers:
            meanings = ", ".join(f"{name} = {self.names[self.label_of[name]]}" for name in numbers)
            log.info("the labels of %s are numbers: %s", sources, meanings)

    def unknown_class_error(self, unknown: Mapping[str, str], names: Iterable[str]) -> InputError:
        """Return the error about the first unknown class name, with its place and all names that occur.

        Args:
            unknown: {unknown name: where it first occurs}, a path or `data.labels: <path>, row <number>`.
            names: All class names that occur, the known ones too; they may repeat.
        """
        name, path = next(iter(unknown.items()))
        example = ", ".join(f"{name}: [...]" for name in self.names)
        return InputError(
            f"{path}: label {name!r} is none of {', '.join(self.label_of)}; class names seen: "
            f"{', '.join(sorted(set(names)))}. Map them (data.classes={{{example}}}), or correct the row, "
            "file or folder that is named."
        )


def label_known_classes(classes: ClassPairs, known: Iterable[str], data_set: str) -> dict[str, int]:
    """Return {class of the data set: label} for a data set with classes of its own, such as BreaKHis's tumor types.

    Classes of the data set that the setting does not name are left out.

    Args:
        classes: The setting `data.classes`: by label, a class's name and the data set's classes that belong to it. A
            class without any is one of the data set's itself.
        known: The names of the data set's own classes.
        data_set: Its name, for the message.

    Raises:
        InputError: If a class of the setting has no name that is one of the data set's.
    """
    by_spelling = {normalize_class(name): name for name in known}
    labels = {}
    for label, name in enumerate(class_names(classes)):
        further = dict(classes).get(name, ())
        for spelling in further or (name,):
            if normalize_class(spelling) not in by_spelling:
                raise InputError(
                    f"data.classes: {spelling!r} is no class of {data_set}, whose classes are "
                    f"{', '.join(by_spelling.values())}. Name one of them."
                )
        spellings = map(normalize_class, (name, *further))
        labels |= {by_spelling[spelling]: label for spelling in spellings if spelling in by_spelling}
    return labels


def read_labels(path: Path, classes: ClassNames) -> list[Row]:
    """Read a table of labels: columns image, label and patient, and x and y where it has them.

    Args:
        path: A CSV file (comma, semicolon or tab; UTF-8 or UTF-16) or an .xlsx workbook's first sheet.
        classes: The names of the classes.

    Raises:
        InputError: If a column is missing or there twice, a row has no image or patient or more cells than columns, a
            cell is an error value or a rounded number of a spreadsheet, a label is no class, or x or y no whole number.
    """
    if not path.is_file():
        raise InputError(f"data.labels: {path} does not exist. Give a table with columns {', '.join(COLUMNS)}.")
    cells = _read_cells(path)
    _undo_float_patients([row for _, row in cells])
    _check_thousands(cells, path)
    rows, unknown, class_names = [], {}, []
    for number, row in cells:
        for name in COLUMNS:
            if not row.get(name):
                raise InputError(f"data.labels: {path}, row {number}: no {name}. Fill it in or remove the row.")
            if "\n" in row[name]:
                raise InputError(f"data.labels: {path}, row {number}: its {name} has a line break. Remove it.")
        for name in (*COLUMNS, *AXES):
            check_cell(row.get(name, ""), f"data.labels: {path}, row {number}: {name}")
        for name in COLUMNS:
            check_not_date(
                row[name], f"data.labels: {path}, row {number}: {name}", path.suffix.lower() not in WORKBOOKS
            )
        patient = normalize_patient(row["patient"])
        check_patient(patient, f"data.labels: {path}, row {number}: patient")
        label = classes.label(row["label"])
        class_names.append(row["label"])
        if label is None:
            unknown.setdefault(row["label"], f"data.labels: {path}, row {number}")
            continue
        x, y = (_parse_coordinate(row.get(axis, ""), axis, path, number) for axis in AXES)
        rows.append(Row(number, row["image"], label, patient, x, y))
    if unknown:
        raise classes.unknown_class_error(unknown, class_names)
    return rows


def _read_cells(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the number and {column: cell} of each row of a table; see `read_labels`."""
    lines = _read_workbook(path) if path.suffix.lower() in WORKBOOKS else read_csv(path, "data.labels")[1]
    header = [normalize_text(cell).casefold() for cell in lines[0][1]] if lines else []
    while header and not header[-1]:
        header.pop()
    if missing := [name for name in COLUMNS if name not in header]:
        raise InputError(
            f"data.labels: {path} has no column {missing[0]}; its columns: {', '.join(header) or 'none'}. "
            f"Name them {', '.join(COLUMNS)}, and x and y if the coordinates are known."
        )
    check_columns(header, (*COLUMNS, *AXES), f"data.labels: {path}")
    for number, line in lines[1:]:
        remedy = "Put a cell that contains the delimiter in quotation marks, or name the columns."
        check_row(line, len(header), f"data.labels: {path}, row {number}", remedy)
    if len(lines) == 1:
        raise InputError(f"data.labels: {path} has a header and no row. Write a row for each image.")
    return [(number, dict(zip(header, line, strict=False))) for number, line in lines[1:]]


def match_images(rows: list[Row], files: list[ImageFile], path: Path) -> list[tuple[ImageFile, Row]]:
    """Find the image of each row, by its path below the data's folder or archive, or by its file name if unique.

    Args:
        files: All images of the data set.
        path: The table, for errors.

    Returns:
        Pairs of an image and its row; each image once, images without a row are left out.

    Raises:
        InputError: If an image is missing, its name is that of several files, or two rows contradict each other.
    """
    by_name = _index_by_name(files)
    matches: dict[str, tuple[ImageFile, Row]] = {}
    absent = []
    for row in rows:
        candidates = by_name.get(_normalize_path(row.image), [])
        if len(candidates) > 1:
            raise InputError(
                f"data.labels: {path}, row {row.number}: {row.image} is the name of {candidates[0].path} and of "
                f"{candidates[1].path}. Write its path below data.dir."
            )
        if not candidates:
            absent.append(row)
            continue
        _, earlier_row = matches.setdefault(candidates[0].path, (candidates[0], row))
        if earlier_row[2:] != row[2:]:
            raise InputError(
                f"data.labels: {path}: rows {earlier_row.number} and {row.number} say different things of {row.image}. "
                "Remove one of them."
            )
    if absent:
        names = ", ".join(row.image for row in absent[:MAX_LISTED])
        further = f" and {len(absent) - MAX_LISTED} more" if len(absent) > MAX_LISTED else ""
        raise InputError(
            f"data.labels: {path}, row {absent[0].number}: not in data.dir: {names}{further}. "
            "Write paths below data.dir, or remove the rows."
        )
    if left_out := [file for file in files if file.path not in matches]:
        log.info("data.labels: %d images have no row and are left out, the first: %s", len(left_out), left_out[0].path)
    return list(matches.values())


def _index_by_name(files: list[ImageFile]) -> dict[str, list[ImageFile]]:
    """Return files by every name that a table may use for them.

    The names are the path below the source, with and without the source, the full path, and the file's name. A path
    goes before a file's name.
    """
    paths: dict[str, list[ImageFile]] = {}
    names: dict[str, list[ImageFile]] = {}
    for file in files:
        name = _normalize_path(file.name)
        for key in {name, f"{file.source}/{name}", _normalize_path(file.path)}:
            paths.setdefault(key, []).append(file)
        names.setdefault(name.rpartition("/")[2], []).append(file)
    return names | paths


def _normalize_path(name: str) -> str:
    return plain_path(unicodedata.normalize("NFC", normalize_text(name)))


def normalize_spelling(name: str) -> str:
    """Return the name of a class in lower case, without spaces, and a spreadsheet's 1.0 as 1."""
    name = normalize_class(normalize_text(name))
    return WHOLE_NUMBER.sub(r"\1", name) if WHOLE_NUMBER.fullmatch(name) else name


def _undo_float_patients(rows: list[dict[str, str]]) -> None:
    """Change patients such as 8863.0 to 8863 in place, if all patients are such numbers.

    Spreadsheets write the integers of a column with empty cells as floats. Each row is {column: cell}.
    """
    patients = [row["patient"] for row in rows if row.get("patient")]
    if patients and all(WHOLE_NUMBER.fullmatch(patient) for patient in patients):
        for row in rows:
            row["patient"] = WHOLE_NUMBER.sub(r"\1", row.get("patient", ""))


def _parse_coordinate(text: str, axis: str, path: Path, number: int) -> int:
    """Return a coordinate in whole pixels, UNKNOWN for an empty cell; the other arguments are for the InputError.

    A point may separate thousands: `1.251` is no whole number.
    """
    if not text:
        return UNKNOWN
    if not PIXELS.fullmatch(text):
        raise InputError(
            f"data.labels: {path}, row {number}: {axis} is {text!r}, no whole number of pixels. Write digits alone, "
            "without points, or leave it empty if it is unknown."
        )
    return int(float(text))


def _check_thousands(rows: list[tuple[int, dict[str, str]]], path: Path) -> None:
    """Refuse a column of places that has `1.000` and nothing that tells whether this is one or a thousand.

    Decimals of another number tell it: `0.000`, `1024.000` or `12.0`. Each row is (number, {column: cell}).
    """
    for axis in AXES:
        cells = [(number, row.get(axis, "")) for number, row in rows]
        ambiguous = [(number, cell) for number, cell in cells if THOUSANDS.fullmatch(cell)]
        if ambiguous and not any("." in cell and not THOUSANDS.fullmatch(cell) for _, cell in cells):
            number, cell = ambiguous[0]
            raise InputError(
                f"data.labels: {path}, row {number}: {axis} is {cell!r}, where the point may separate thousands. Write "
                "digits alone, without points."
            )


def _read_workbook(path: Path) -> list[tuple[int, list[str]]]:
    """Return the number, from 1 on, and the cells of each row that is not empty of a workbook's first visible sheet."""
    try:
        from openpyxl import load_workbook

        with path.open("rb") as file:
            sheets = load_workbook(file, read_only=True, data_only=True, keep_links=False).worksheets
            sheet = next(sheet for sheet in sheets if sheet.sheet_state == "visible")  # every workbook has one
            sheet.reset_dimensions()  # some programs state too few
            rows = [[_cell_text(value) for value in line] for line in sheet.iter_rows(values_only=True)]
    except ImportError as error:
        raise InputError(f"{path} needs openpyxl: pip install openpyxl, or save it as CSV.") from error
    except Exception as error:  # a damaged workbook ends in whatever its parts' readers raise
        raise InputError(f"{path} is no readable workbook ({error}). Save it again, or as CSV.") from error
    return [(number, cells) for number, cells in enumerate(rows, 1) if any(cells)]


def _cell_text(value: Any) -> str:
    """Return the value of a workbook's cell as text; a whole number without decimals unless it has too many digits."""
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT:
        value = int(value)
    return "" if value is None else str(value).strip()
