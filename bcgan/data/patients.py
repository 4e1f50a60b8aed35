"""Names of patients: one form for every spelling of a name, and a refusal where two names may be one patient."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from bcgan.errors import InputError
from bcgan.slides.files import strip_suffixes

INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\0"  # zero-width characters, a byte order mark
EXCEL_TEXT = re.compile(r"""^(?:="(.*)"|'(?=\d)(.*))$""", re.DOTALL)
SEPARATOR = re.compile(r"\\(?!x[0-9a-f]{2})")  # a backslash, unless it escapes a byte that is not UTF-8
MINUS = "\u2212"
MARKS = (
    (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)  # fmt: skip


def normalize_patient(text: str) -> str:
    """Return a patient's name in the one form that every reader uses.

    Unicode is composed (NFC), separators of paths are forward slashes, and what cannot be seen at either end goes:
    spaces of any kind, zero-width characters, byte order marks, carriage returns; so does what a spreadsheet writes
    around a number that is text, `'8863` or `="8863"`.
    """
    text = unicodedata.normalize("NFC", SEPARATOR.sub("/", text))
    trimmed = None
    while trimmed != text:
        trimmed, text = text, EXCEL_TEXT.sub(_inside, text.strip().strip(INVISIBLE))
    return text


def _inside(match: re.Match) -> str:
    return match[1] if match[1] is not None else match[2]


def check_spellings(names: Iterable[str], where: str) -> None:
    """Refuse names that differ only in case, spacing, leading zeros, width or a file's suffix.

    Args:
        names: Patients' names, as `normalize_patient` returns them.
        where: What holds them, for the error.

    Raises:
        InputError: Two names may be one patient.
    """
    spellings: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(set(names)):
        spellings.setdefault(_spelling(name), []).append(name)
    similar = [several for several in spellings.values() if len(several) > 1]
    if similar:
        further = f" ({len(similar) - 1} further such pairs)" if len(similar) > 1 else ""
        raise InputError(
            f"{where}: patients {similar[0][0]!r} and {similar[0][1]!r} differ in spelling alone{further}, and a "
            "patient under two names could be on both sides of a split. Rename one, or, if they are two patients, "
            "set data.similar_patients=allow."
        )


def read_text(path: Path) -> str:
    """Read a text file in UTF-8 or, with a byte order mark, UTF-16 or UTF-32.

    Raises:
        InputError: It cannot be read, or is in another encoding.
    """
    try:
        return decode_text(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as text ({error}). Save it as UTF-8.") from error


def decode_text(data: bytes) -> str:
    """Decode UTF-8 or, with a byte order mark, UTF-16 or UTF-32.

    Raises:
        ValueError: It is in another encoding.
    """
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    text = data.decode(encoding)
    if "\0" in text:
        raise ValueError("it holds zero bytes, as UTF-16 without a byte order mark does")
    return text


def _spelling(name: str) -> tuple[str, ...]:
    """Return what is left of a name without case, spacing, leading zeros and suffix.

    Digits stay apart where something is between them: `1-11` is not `11-1`.
    """
    name = unicodedata.normalize("NFKC", name).casefold()
    name = "".join(
        "-" if unicodedata.category(letter) == "Pd" or letter == MINUS else letter
        for letter in name
        if unicodedata.category(letter) != "Cf"
    )
    name = re.sub(r"(?<=\d)\.0+$", "", re.sub(r"\.gif$", "", strip_suffixes(name.rstrip(" ,;"))))
    parts: list[str] = []
    for part in re.findall(r"\d+|[^\W\d_]+|[^\w\s-]", name):
        if part.isdecimal():
            parts.append(str(int(part)))  # digits of any script
        elif parts and not parts[-1].isdigit():
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)
