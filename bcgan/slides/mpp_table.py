"""A table of resolutions for a mixed cohort: which microns per pixel each file has."""

import csv
import io
from pathlib import Path

from bcgan import progress
from bcgan.errors import InputError
from bcgan.slides.files import ImageFile, strip_suffixes
from bcgan.slides.scale import Mpp

FILE_COLUMNS = ("file", "path", "image", "name", "slide")
ENCODINGS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"", "utf-8-sig"))


class MppChoice:
    """The resolution that a user gives for an image: by a table, else one for all; calling it gives an Mpp or None.

    A file is named in the table by its path, by its name, or by its name without suffix.
    """

    def __init__(self, mpp: float | None = None, table: Path | None = None):
        self.mpp, self._table = mpp, table
        self._rows = read_table(table) if table else {}
        self._default = Mpp(mpp, mpp, "user") if mpp else None

    def __call__(self, image: ImageFile) -> Mpp | None:
        name = image.path.rsplit("/", 1)[-1].rsplit("!", 1)[-1]
        for key in (image.path, image.name, name, strip_suffixes(name)):
            if key in self._rows:
                return self._rows[key]
        return self._default

    def as_json(self) -> object:
        """What a result depends on, for the keys of resumable work."""
        return [self.mpp, {key: [mpp.x, mpp.y] for key, mpp in self._rows.items()}]

    def report_unused(self, images: list[ImageFile]) -> None:
        """Name the rows of the table that belong to no image, and count the images that it does not name."""
        if not self._table:
            return
        keys = set()
        for image in images:
            name = image.path.rsplit("/", 1)[-1].rsplit("!", 1)[-1]
            keys |= {image.path, image.name, name, strip_suffixes(name)}
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
    """Read a CSV of `file,mpp`, with a header or without; `mpp_y` may be a third column.

    Raises:
        InputError: If it cannot be read, a row has no positive number, or a file has two resolutions.
    """
    try:
        data = path.read_bytes()
        encoding = next(name for mark, name in ENCODINGS if data.startswith(mark))
        text = data.decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--mpp-csv: {path} cannot be read ({error}). Give a CSV of file,mpp in UTF-8.") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows: dict[str, Mpp] = {}
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 0 and cells[0].lower() in FILE_COLUMNS):
            continue
        try:
            # A table that separates with semicolons may have decimal commas.
            values = [float(cell.replace(",", ".") if delimiter != "," else cell) for cell in cells[1:3] if cell]
            if not values or min(values) <= 0:
                raise ValueError("no positive number")
        except ValueError as error:
            raise InputError(
                f"--mpp-csv: {path}, line {number + 1}: {row} is no file with its microns per pixel ({error}). Write "
                "file,mpp."
            ) from error
        mpp = Mpp(values[0], values[-1], "user")
        if rows.setdefault(cells[0], mpp) != mpp:
            raise InputError(f"--mpp-csv: {path}: {cells[0]} has two resolutions. Keep one of them.")
    if not rows:
        raise InputError(f"--mpp-csv: {path} has no row. Write file,mpp.")
    return rows
