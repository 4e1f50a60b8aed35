"""Read a table with the microns per pixel of each file, for images of different resolutions."""

import math
import os
import unicodedata
from pathlib import Path

from bcgan import progress
from bcgan.errors import InputError
from bcgan.slides.files import ImageFile, strip_suffixes
from bcgan.slides.scale import Mpp
from bcgan.slides.tables import check_cell, check_columns, check_row, read_csv

FILE_COLUMNS = ("file", "path", "image", "name", "slide")
COLUMNS = {"file": FILE_COLUMNS, "mpp": ("mpp", "mpp_x", "microns_per_pixel"), "mpp_y": ("mpp_y",)}


class MppChoice:
    """The resolutions that a user gives, for each image in a table or for all. Calling it returns an Mpp or `None`.

    The table names a file by its path, by its name, or by its name without suffix; each row is of one file.
    """

    def __init__(self, mpp: float | None = None, table: Path | None = None):
        """Read the table of --mpp-csv, if there is one; `mpp`, microns per pixel, is for images that it lacks."""
        if mpp is not None and not 0 < mpp < math.inf:
            raise InputError(f"--mpp: {mpp} is no number of microns. Give a positive one.")
        self.mpp, self._table = mpp, table
        self._rows = read_table(table) if table else {}
        self._default = Mpp(mpp, mpp, "user") if mpp else None

    def __call__(self, image: ImageFile) -> Mpp | None:
        """Return the resolution that the user gives for an image; `None` if there is none."""
        return self._rows.get(self._find_row(image), self._default)

    def _find_row(self, image: ImageFile) -> str | None:
        """Return the name that an image's row has in the table; `None` if it has none."""
        return next((key for key in _lookup_keys(image) if key in self._rows), None) if self._rows else None

    def as_json(self) -> object:
        """Return all values as JSON: [default mpp, {file: [mpp_x, mpp_y]}], on which finished work depends."""
        return [self.mpp, {key: [mpp.x, mpp.y] for key, mpp in self._rows.items()}]

    def check_images(self, images: list[ImageFile]) -> None:
        """Check that no row belongs to two images; warn of rows that belong to none, and of images without a row.

        Raises:
            InputError: If the name in a row is that of two images.
        """
        if not self._table:
            return
        image_of: dict[str, ImageFile] = {}
        for image in images:
            key = self._find_row(image)
            if key is not None and image_of.setdefault(key, image).path != image.path:
                raise InputError(
                    f"--mpp-csv: {self._table}: {key} is the name of {image_of[key].path} and of {image.path}. Write a "
                    "row with the path of each."
                )
        keys = {key for image in images for key in _lookup_keys(image)}
        if unused := sorted(set(self._rows) - keys):
            progress.log.warning(
                "--mpp-csv: %s: %d of %d files are none of the images, such as %s",
                self._table, len(unused), len(self._rows), unused[0],
            )  # fmt: skip
        if not self.mpp and (unnamed := [image.path for image in images if self(image) is None]):
            progress.log.warning(
                "--mpp-csv: %s: %d images are not in it, such as %s: their files' own resolution is used",
                self._table, len(unnamed), unnamed[0],
            )  # fmt: skip


def read_table(path: Path) -> dict[str, Mpp]:
    """Read a CSV table of `file,mpp`, with a header or without.

    With a header it may have other columns, and `mpp_y` for pixels that are not square.

    Returns:
        The resolution by file, as `_normalize_path` writes it.

    Raises:
        InputError: If it cannot be read, a row has no positive number or too many cells, or a file has two resolutions.
    """
    delimiter, lines = read_csv(path, "--mpp-csv")
    header = [cell.lower() for cell in lines[0][1]] if lines else []
    has_header = any(name in FILE_COLUMNS for name in header)
    columns = _find_columns(header, path) if has_header else (0, 1, None)
    rows: dict[str, Mpp] = {}
    for number, cells in lines[has_header:]:
        where = f"--mpp-csv: {path}, line {number}"
        remedy = "Write file,mpp (and decimal points, not commas), or a header."
        check_row(cells, len(header) if has_header else 2, where, remedy)
        if not (file := cells[columns[0]] if columns[0] < len(cells) else ""):
            raise InputError(f"{where}: no file. Fill it in or remove the row.")
        check_cell(file, f"{where}: file")
        mpp = _read_row(cells, columns, delimiter, where)
        key = _normalize_path(file)
        if rows.setdefault(key, mpp) != mpp:
            raise InputError(f"--mpp-csv: {path}: {key} has two resolutions. Keep one of them.")
    if not rows:
        raise InputError(f"--mpp-csv: {path} has no row. Write file,mpp.")
    return rows


def _find_columns(header: list[str], path: Path) -> tuple[int, int, int | None]:
    """Return the column indices of the file, of its microns per pixel, and of those along y if there are any.

    Args:
        header: The names of the columns, in lower case.
        path: The table, for errors.

    Raises:
        InputError: If there is not exactly one column for the file, or for the microns per pixel, or several mpp_y.
    """
    indices = {
        column: [index for index, cell in enumerate(header) if cell in names] for column, names in COLUMNS.items()
    }
    check_columns(header, COLUMNS["mpp_y"], f"--mpp-csv: {path}")
    for column in ("file", "mpp"):
        if len(indices[column]) != 1:
            raise InputError(
                f"--mpp-csv: {path} has {len(indices[column])} columns {column}; its columns: {', '.join(header)}. "
                f"Name one {column}."
            )
    return indices["file"][0], indices["mpp"][0], next(iter(indices["mpp_y"]), None)


def _read_row(cells: list[str], columns: tuple[int, int, int | None], delimiter: str, where: str) -> Mpp:
    """Return the resolution of one row.

    Args:
        columns: Indices of the columns file, mpp and mpp_y (`None` without one).
        delimiter: Of the table's cells.
        where: File and line, for errors.

    Raises:
        InputError: If it has no positive number.
    """
    try:
        indices = [index for index in columns[1:] if index is not None and index < len(cells)]
        texts = [cells[index] for index in indices if cells[index]]
        if delimiter != ",":  # such a table may have decimal commas
            texts = [text.replace(",", ".") for text in texts]
        values = [float(text) for text in texts]
        if not values or not all(0 < value < math.inf for value in values):
            raise ValueError("no positive number")
    except ValueError as error:
        raise InputError(
            f"{where}: {cells} is no file with its microns per pixel ({error}). Write file,mpp."
        ) from error
    return Mpp(values[0], values[-1], "user")


def _normalize_path(name: str) -> str:
    """Return a file's name with composed Unicode, forward slashes and no `./` in front."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    return os.path.normpath(name) if name else name


def _lookup_keys(image: ImageFile) -> list[str]:
    """Return the names that a row may have for an image, the most specific first."""
    name = image.path.rsplit("/", 1)[-1].rsplit("!", 1)[-1]
    absolute = [os.path.abspath(image.local)] if image.local else []  # noqa: PTH100, links are not followed
    return [_normalize_path(key) for key in (image.path, *absolute, image.name, name, strip_suffixes(name))]
