"""Normalize names of patients, and refuse names that may be two spellings of one patient."""

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import quote, unquote

from bcgan.errors import InputError
from bcgan.slides.files import strip_suffixes
from bcgan.slides.tables import check_cell

INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\0"  # zero-width characters, a byte order mark
EXCEL_TEXT = re.compile(r"""^(?:="(.*)"|'(?=\d)(.*))$""", re.DOTALL)
SEPARATOR = re.compile(r"\\(?!x[0-9a-f]{2})")  # a backslash, unless it escapes a byte that is not UTF-8
# What programs write where a value is missing, and results of comparisons, in lower case. NA, which R writes, may be
# initials and is refused too: renaming one patient costs less than taking several for one.
NO_PATIENT = ("", "nan", "none", "null", "na", "n/a", "<na>", "nat", "unknown", "true", "false")
MINUS = "\u2212"
ALLOW = "Rename one, or, if they are two patients, set data.similar_patients=allow."
PATIENT_REMEDY = "Rename one, or change --patient: one name for one patient, names that differ in more for two."


def normalize_patient(text: str) -> str:
    """Return a patient's name in the form that all readers use: `normalize_text`, without `escape_patient`'s escapes.

    Another name with `%` stays.
    """
    text = normalize_text(text)
    if "%" in text and text == escape_patient(decoded := unquote(text)):
        return normalize_text(decoded)
    return text


def normalize_text(text: str) -> str:
    """Return a cell of a table, or a part of a path, without differences that cannot be seen.

    Unicode is composed (NFC) and path separators become forward slashes. Invisible characters at both ends are removed
    (spaces of any kind, zero-width characters, byte order marks, carriage returns), and what spreadsheets write around
    a number that is text, `'8863` or `="8863"`.
    """
    text = unicodedata.normalize("NFC", SEPARATOR.sub("/", text))
    trimmed = None
    while trimmed != text:
        trimmed, text = text, EXCEL_TEXT.sub(_excel_content, text.strip().strip(INVISIBLE))
    return text


def escape_patient(name: str) -> str:
    """Return a patient's name for names of files, percent-encoded as in a URL, `_` included."""
    return quote(name, safe="", errors="surrogateescape").replace("_", "%5F")


def _excel_content(match: re.Match) -> str:
    return match[1] if match[1] is not None else match[2]


def check_patient(name: str, subject: str) -> None:
    """Check that a name is that of a patient: that it does not stand for a missing value, which several would share.

    Args:
        name: As `normalize_patient` returns it.
        subject: Where it is from, for the error, such as "<path>: the patient".

    Raises:
        InputError: If it is one of NO_PATIENT in any case, has no letter and no digit, or is what `check_cell` refuses.
    """
    check_cell(name, subject)
    if name.casefold() in NO_PATIENT or not any(map(str.isalnum, name)):
        raise InputError(
            f"{subject} is {name!r}, which names no patient. Name every patient, so that all patches of one stay on "
            "one side of the split."
        )


def check_spellings(names: Iterable[str], source: str, remedy: str = ALLOW) -> None:
    """Check that no two names differ only in case, spacing, leading zeros, character width or a file's suffix.

    Args:
        names: Patients' names, as `normalize_patient` returns them.
        source: Where the names are from, for the error.
        remedy: What to do, for the error. Defaults to ALLOW, for what reads the settings `data`.

    Raises:
        InputError: If two names may be one patient.
    """
    spellings: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(set(names)):
        spellings.setdefault(_spelling(name), []).append(name)
    similar = [variants for variants in spellings.values() if len(variants) > 1]
    if similar:
        further = f" ({len(similar) - 1} further such pairs)" if len(similar) > 1 else ""
        raise InputError(
            f"{source}: patients {similar[0][0]!r} and {similar[0][1]!r} differ in spelling alone{further}, and a "
            f"patient under two names would count as two. {remedy}"
        )


def _spelling(name: str) -> tuple[str, ...]:
    """Return the parts of a name without case, spacing, leading zeros and suffix.

    Groups of digits are not merged: `1-11` differs from `11-1`.
    """
    name = unicodedata.normalize("NFKC", name).casefold()
    name = "".join(
        "-" if unicodedata.category(letter) == "Pd" or letter == MINUS else letter
        for letter in name
        if unicodedata.category(letter) != "Cf"  # invisible formatting characters; Pd are dashes
    )
    name = re.sub(r"(?<=\d)\.0+$", "", re.sub(r"\.gif$", "", strip_suffixes(name.rstrip(" ,;"))))
    parts: list[str] = []
    # Numbers, words, and single other characters but hyphens. What lies between two numbers is joined.
    for part in re.findall(r"\d+|[^\W\d_]+|[^\w\s-]", name):
        if part.isdecimal():
            parts.append(str(int(part)))  # digits of any script
        elif parts and not parts[-1].isdigit():
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)
