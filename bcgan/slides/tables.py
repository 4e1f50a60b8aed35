"""Read text and CSV tables as spreadsheets and editors write them; a table that can be misread is refused."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from bcgan.errors import InputError

DELIMITERS = (",", ";", "\t")
BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)  # fmt: skip
# What spreadsheets show for a formula without a value, in their languages (#N/A, #N/D!, #REF!, #WERT!, #DIV/0!, #NV),
# or for a column that is too narrow (###). A patient may be called #1 or P#2, but not # and a word.
ERROR_VALUE = re.compile(r"##+|#[¡¿]?[^\W\d]+(/[^\W_]+)?[!?]?|(Err|Fehler|Erreur|Error):\d{3}", re.IGNORECASE)
ROUNDED_NUMBER = re.compile(r"\d+([.,]\d+)?E\+\d+", re.IGNORECASE)  # 2.02401E+11, the start of a longer number
MONTHS = (
    "jan(uary?|uar)?|feb(ruary?|ruar)?|mar(ch)?|mär(z)?|mrz|apr(il)?|may|mai|june?|juni|july?|juli|aug(ust)?|"
    "sept?(ember)?|o[ck]t(ober)?|nov(ember)?|de[cz](ember)?"
)
# What a spreadsheet makes of a name such as 5-3 or 1:30: as its file stores it, and as English and German ones show it.
STORED_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?|(-?\d+ days?, )?\d+:\d\d:\d\d(\.\d+)?")
SHOWN_DATE = re.compile(
    rf"\d{{1,2}}(-|\. )(?i:{MONTHS})\.?(-\d{{2,4}})?|(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)-\d\d"
)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8 or, with a byte order mark, UTF-16 or UTF-32.

    Raises:
        InputError: If it cannot be read or is in another encoding.
    """
    try:
        return decode_text(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as text ({error}). Save it as UTF-8.") from error


def decode_text(data: bytes) -> str:
    """Decode UTF-8 or, with a byte order mark, UTF-16 or UTF-32.

    Raises:
        ValueError: If it is in another encoding.
    """
    encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    text = data.decode(encoding).lstrip("\ufeff")
    if "\0" in text:
        raise ValueError("it has zero bytes, as UTF-16 without a byte order mark does")
    return text


def read_csv(path: Path, source: str) -> tuple[str, list[tuple[int, list[str]]]]:
    """Read a CSV table; empty lines are left out, and spaces around cells.

    Args:
        source: The option or setting that names the table, for the error.

    Returns:
        The delimiter, which the first line that is not empty decides, and the number of each line and its cells.

    Raises:
        InputError: If it is no text, or a quote is not closed.
    """
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    # Without `strict` a quote that is not closed takes all lines after it into its cell.
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
    lines, number = [], 1
    try:
        for line in reader:
            cells = [cell.strip() for cell in line]
            if any(cells):
                lines.append((number, cells))
            number = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{source}: {path}, line {number}: a quotation mark is not closed, or is followed by text ({error}). "
            "Correct the quotation marks, or save the table again."
        ) from error
    return delimiter, lines


def check_columns(header: Sequence[str], names: Sequence[str], table: str) -> None:
    """Check that no column that is read is there twice.

    Args:
        header: The columns, in one case.
        names: The columns that are read.
        table: The setting and the file, for the error.

    Raises:
        InputError: If a name is that of two columns.
    """
    for name in names:
        if header.count(name) > 1:
            raise InputError(
                f"{table} has {header.count(name)} columns {name} (whatever their case); its columns: "
                f"{', '.join(header)}. Keep one {name}."
            )


def check_cell(cell: str, subject: str) -> None:
    """Check that a cell is neither an error value of a spreadsheet nor a number that one has rounded.

    Args:
        subject: The setting, the file, the row's number and the column, for the error.

    Raises:
        InputError: If it is.
    """
    if ERROR_VALUE.fullmatch(cell):
        raise InputError(f"{subject} is {cell!r}, an error value of a spreadsheet. Correct its formula, or write text.")
    if ROUNDED_NUMBER.fullmatch(cell):
        raise InputError(
            f"{subject} is {cell!r}, a number in scientific notation, to which a spreadsheet may have rounded others. "
            "Format the column as text and enter the numbers again."
        )


def check_not_date(cell: str, subject: str, is_text: bool) -> None:
    """Check that a cell is no date and no time, which a spreadsheet makes of a name such as 5-3.

    Args:
        cell, subject: As `check_cell` takes them.
        is_text: Whether the table is a text file, which has dates as the spreadsheet showed them, or a workbook.

    Raises:
        InputError: If it is.
    """
    if STORED_DATE.fullmatch(cell) or (is_text and SHOWN_DATE.fullmatch(cell)):
        raise InputError(
            f"{subject} is {cell!r}, a date or a time, which a spreadsheet makes of a name such as 5-3. Format the "
            "column as text and enter the names again; put a letter before a name that is really so."
        )


def check_row(cells: Sequence[str], num_columns: int, row: str, remedy: str) -> None:
    """Check that a row has no more cells than the table has columns; empty cells at its end do not count.

    Args:
        row: The setting, the file and the row's number, for the error.
        remedy: What to do, for the error.

    Raises:
        InputError: If it has more.
    """
    if any(cells[num_columns:]):
        raise InputError(f"{row}: {', '.join(cells)} has more cells than columns ({num_columns}). {remedy}")
