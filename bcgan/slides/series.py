"""Slides of several files: DICOM series, MIRAX with its folder of data, Hamamatsu VMS and VMU with their images."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bcgan.slides.kinds import DICOM_SUFFIXES, HEAD, has_known_suffix, sniff

if TYPE_CHECKING:
    from bcgan.slides.files import ImageFile

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # the SOP class of DICOM's whole-slide images
TAGS = (
    "SOPClassUID", "SeriesInstanceUID", "ImageType", "Rows", "Columns", "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
)  # fmt: skip
LONGEST_INDEX = 2**20  # bytes of a VMS file, which is a short text
VALUE = re.compile(r"^[^=\n]+=(.+?)\s*$", re.MULTILINE)


class _Instance(NamedTuple):
    """A DICOM file of a whole slide: its series, whether it is the slide itself and not a label, and its pixels."""

    series: str
    volume: bool
    pixels: int


def group_files(files: list[ImageFile]) -> list[ImageFile]:
    """Leave one file of each slide; the slide's other files on disk become its `parts`.

    Args:
        files: Of any folders; only files that lie in one folder are grouped.

    Returns:
        The files in their order, without those that belong to another one.
    """
    files = group_series(files)
    owners = {}
    for file in files:
        suffix = Path(file.path).suffix.lower()
        if suffix in (".vms", ".vmu"):
            owners[file.path] = _named_parts(file)
        elif suffix == ".mrxs" and file.local and (data := file.local.with_suffix("")).is_dir():
            owners[file.path] = tuple(sorted(path for path in data.rglob("*") if path.is_file())), set()
    hidden = {(_folder_of(file), name) for file in files if file.path in owners for name in owners[file.path][1]}
    visible = (file for file in files if file.path in owners or (_folder_of(file), _base(file)) not in hidden)
    return [file._replace(parts=owners[file.path][0]) if file.path in owners else file for file in visible]


def group_series(files: list[ImageFile]) -> list[ImageFile]:
    """Leave one file of each DICOM series in a folder: the first of those that hold the most pixels.

    Files that are not of a whole slide are images of their own, even in one series.
    """
    by_folder: dict[str, list[ImageFile]] = {}
    for file in files:
        if not file.parts and _is_dicom(file):
            by_folder.setdefault(_folder_of(file), []).append(file)
    series: dict[tuple[str, str], list[tuple[_Instance, ImageFile]]] = {}
    for folder, several in by_folder.items():
        for file in several if len(several) > 1 else ():
            if instance := _instance(file):
                series.setdefault((folder, instance.series), []).append((instance, file))
    chosen: dict[str, ImageFile] = {}
    merged: set[str] = set()
    for instances in series.values():
        ranked = sorted(instances, key=lambda pair: (not pair[0].volume, -pair[0].pixels, pair[1].path))
        paths = sorted({file.local for _, file in ranked if file.local} - {ranked[0][1].local})
        merged |= {file.path for _, file in ranked}
        chosen[ranked[0][1].path] = ranked[0][1]._replace(parts=tuple(paths))
    result, placed = [], set()
    for file in files:
        if file.path not in merged:
            result.append(file)
        elif file.path in chosen and file.path not in placed:
            placed.add(file.path)
            result.append(chosen[file.path])
    return result


def mirax_folders(names: list[str]) -> set[str]:
    """Return which folders hold the data of MIRAX slides: those named as an .mrxs file beside them.

    Args:
        names: Names or relative paths of files.
    """
    return {name[: -len(".mrxs")] for name in names if name.lower().endswith(".mrxs")}


def _instance(file: ImageFile) -> _Instance | None:
    import pydicom

    try:
        source = file.local or io.BytesIO(file.read())
        header = pydicom.dcmread(source, stop_before_pixels=True, specific_tags=list(TAGS))
        pixels = header.get("TotalPixelMatrixColumns", 0) * header.get("TotalPixelMatrixRows", 0)
        if header.get("SOPClassUID") != WHOLE_SLIDE and not pixels:
            return None
        kinds = set(header.get("ImageType") or ())
        pixels = int(pixels or header.get("Columns", 0) * header.get("Rows", 0))
        return _Instance(str(header.SeriesInstanceUID), not kinds & {"LABEL", "OVERVIEW"}, pixels)
    except Exception:  # a damaged header ends in whatever the reader raises; reading the image will tell
        return None


def _is_dicom(file: ImageFile) -> bool:
    name = _base(file)
    if has_known_suffix(name):
        return name.lower().endswith(DICOM_SUFFIXES)
    try:
        if not file.local:
            return sniff(file.read()[:HEAD]) == "dicom"
        if not file.local.is_file():
            return False
        with file.local.open("rb") as opened:
            return sniff(opened.read(HEAD)) == "dicom"
    except (OSError, ValueError):
        return False


def _named_parts(file: ImageFile) -> tuple[tuple[Path, ...], set[str]]:
    """Return the files on disk that a VMS file names, and their names."""
    if file.size > LONGEST_INDEX:
        return (), set()
    try:
        names = set(VALUE.findall(file.read().decode("utf-8", "replace").replace("\r", "")))
    except (OSError, ValueError):
        return (), set()
    names = {name for name in names if not {"/", "\\", "\0"} & set(name)} - {_base(file)}
    if not file.local:
        return (), names
    return tuple(path for name in sorted(names) if (path := file.local.with_name(name)).is_file()), names


def _folder_of(file: ImageFile) -> str:
    return str(file.local.parent) if file.local else file.path.rpartition("/" if "/" in _member(file) else "!")[0]


def _member(file: ImageFile) -> str:
    return file.path.rpartition("!")[2]


def _base(file: ImageFile) -> str:
    return file.local.name if file.local else re.split("[/!]", file.path)[-1]
