"""File types: the suffixes that name them, the bytes that identify them, and file names for display."""

import json
import os
import re
from collections.abc import Callable

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".jp2", ".j2k", ".j2c", ".jpc",
    ".jpx", ".jpf",
)  # fmt: skip
SLIDE_SUFFIXES = (
    ".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm", ".dicom", ".btf", ".tf2",
    ".tf8", ".qptiff",
)  # fmt: skip
KNOWN_SUFFIXES = (*IMAGE_SUFFIXES, *SLIDE_SUFFIXES)
DICOM_SUFFIXES = (".dcm", ".dicom")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
IMAGE_KINDS = ("png", "jpeg", "tiff", "bmp", "webp", "jp2", "dicom")
ARCHIVE_KINDS = ("zip", "gzip", "bzip2", "xz", "tar")
HEAD = 512  # bytes of a file that `sniff` needs
# `bcgan sample` and `bcgan release` write a file of this name, whose `what` begins so, beside synthetic patches.
MANIFEST, SYNTHETIC = "manifest.json", "synthetic patches of"
# What systems and network storage keep beside files, in lower case: thumbnails, deleted files, earlier versions.
HIDDEN = (
    "__macosx", "thumbs.db", "desktop.ini", "@eadir", "@__thumb", "#recycle", "@recycle", "$recycle.bin", "recycler",
    "#snapshot", "@recently-snapshot", "system volume information", "lost+found",
)  # fmt: skip

SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "png"), (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"II*\0", "tiff"), (0, b"MM\0*", "tiff"), (0, b"II+\0", "tiff"), (0, b"MM\0+", "tiff"),
    (8, b"WEBP", "webp"), (0, b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"), (0, b"\xff\x4f\xff\x51", "jp2"),
    (128, b"DICM", "dicom"), (257, b"ustar", "tar"), (0, b"GIF87a", "gif"), (0, b"GIF89a", "gif"),
    (0, b"PK\x03\x04", "zip"), (0, b"PK\x05\x06", "zip"), (0, b"PK\x07\x08", "zip"), (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
)  # fmt: skip
BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes of the header that follows a bitmap's file header


def sniff(head: bytes) -> str | None:
    """Identify a file by its first bytes.

    Args:
        head: The first HEAD bytes, or the whole file if it is shorter.

    Returns:
        "png", "jpeg", "tiff" (BigTIFF too), "bmp", "webp", "jp2", "dicom", "gif", "zip", "gzip", "bzip2", "xz" or
        "tar"; `None` if the file is of none of these types.
    """
    for offset, signature, kind in SIGNATURES:
        if head[offset : offset + len(signature)] == signature and (kind != "webp" or head[:4] == b"RIFF"):
            return kind
    if head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BITMAP_HEADERS and head[6:10] == bytes(4):
        return "bmp"  # two letters alone could begin a text
    return None


def strip_suffixes(name: str) -> str:
    """Return a file's name without its image or slide suffixes: `P001.ome.tif` is `P001`, `P1.2.SVS` is `P1.2`."""
    while True:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122, a name and not a path
        if suffix.lower() not in KNOWN_SUFFIXES or not stem:
            break
        name = stem
    return re.sub(r"(?<=.)\.ome$", "", name, flags=re.IGNORECASE)


def printable(name: str) -> str:
    """Return a file's name for display: bytes that are not UTF-8, which no table can hold, become \\xff and so on."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def has_known_suffix(name: str) -> bool:
    """Return whether a file's suffix is an image's or a slide's."""
    return name.lower().endswith(KNOWN_SUFFIXES)


def has_archive_suffix(name: str) -> bool:
    """Return whether a file's suffix is an archive's."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Return whether a relative path leads to or through what systems hide: `.x`, `@eaDir/`, `Thumbs.db`."""
    parts = name.replace("\\", "/").split("/")
    return any((part.startswith(".") and part.strip(".")) or part.lower() in HIDDEN for part in parts)


def is_synthetic(read: Callable[[], bytes]) -> bool:
    """Return whether a manifest says that the patches beside and below it are synthetic; `read` returns its content."""
    try:
        return str(json.loads(read())["what"]).startswith(SYNTHETIC)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # another program's, or of a run
        return False


def plain_path(name: str) -> str:
    """Return a relative path with forward slashes, without a drive, a leading slash, `.` or `..`."""
    parts = re.sub(r"^[A-Za-z]:(?=[\\/])", "", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))
