"""Group the files of slides that have several: DICOM series, MIRAX with its data folder, Hamamatsu VMS and VMU."""

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
MAX_INDEX_BYTES = 2**20  # bytes of a VMS file, which is a short text
VALUE = re.compile(r"^[^=\n]+=(.+?)\s*$", re.MULTILINE)


class _Instance(NamedTuple):
    """The header of a DICOM file of a whole slide."""

    series: str  # UID of its series
    volume: bool  # whether it is the slide itself, not a label or an overview
    pixels: int


def group_files(files: list[ImageFile]) -> list[ImageFile]:
    """Return one file for each slide, with the slide's other files on disk as its `parts` (DICOM, MIRAX, VMS, VMU).

    Args:
        files: Of any folders; only files in the same folder are grouped.

    Returns:
        The files in their order, without those that belong to another one.
    """
    files = group_series(files)
    owners = {}  # by path: its parts on disk, and the names of files that are not images of their own
    for file in files:
        suffix = Path(file.path).suffix.lower()
        if suffix in (".vms", ".vmu"):
            owners[file.path] = _named_parts(file)
        elif suffix == ".mrxs" and file.local and (folder := file.local.with_suffix("")).is_dir():
            owners[file.path] = tuple(sorted(path for path in folder.rglob("*") if path.is_file())), set()
    hidden = {(_folder(file), name) for file in files if file.path in owners for name in owners[file.path][1]}
    visible = (file for file in files if file.path in owners or (_folder(file), _base_name(file)) not in hidden)
    return [file._replace(parts=owners[file.path][0]) if file.path in owners else file for file in visible]


def group_series(files: list[ImageFile]) -> list[ImageFile]:
    """Return one file for each DICOM series in a folder: the first of those with the most pixels.

    Files that are not of a whole slide are separate images, even in one series.
    """
    by_folder: dict[str, list[ImageFile]] = {}
    for file in files:
        if not file.parts and _is_dicom(file):
            by_folder.setdefault(_folder(file), []).append(file)
    series: dict[tuple[str, str], list[tuple[_Instance, ImageFile]]] = {}
    for folder, dicom_files in by_folder.items():
        if len(dicom_files) < 2:
            continue
        for file in dicom_files:
            if instance := _read_instance(file):
                series.setdefault((folder, instance.series), []).append((instance, file))
    representatives: dict[str, ImageFile] = {}
    merged: set[str] = set()
    for instances in series.values():
        _, first = min(instances, key=lambda pair: (not pair[0].volume, -pair[0].pixels, pair[1].path))
        parts = sorted({file.local for _, file in instances if file.local} - {first.local})
        merged |= {file.path for _, file in instances}
        representatives[first.path] = first._replace(parts=tuple(parts))
    result = []
    for file in files:
        if file.path not in merged:
            result.append(file)
        elif file.path in representatives:
            result.append(representatives.pop(file.path))  # once, if a file is named twice
    return result


def mirax_folders(names: list[str]) -> set[str]:
    """Return the data folders of the MIRAX slides among some files: `slide.mrxs` has its data in the folder `slide`.

    Args:
        names: Names or paths of files.
    """
    return {name[: -len(".mrxs")] for name in names if name.lower().endswith(".mrxs")}


def _read_instance(file: ImageFile) -> _Instance | None:
    """Return the header of a DICOM file; `None` if it is not of a whole slide or cannot be read."""
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
    except Exception:  # a damaged header raises many types; the error is reported when the image is read
        return None


def _is_dicom(file: ImageFile) -> bool:
    """Return whether a file is DICOM, by its suffix, or by its content if the suffix is unknown."""
    name = _base_name(file)
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
    """Return the files on disk that a VMS file names, and all the names that it contains."""
    if file.size > MAX_INDEX_BYTES:
        return (), set()
    try:
        names = set(VALUE.findall(file.read().decode("utf-8", "replace").replace("\r", "")))
    except (OSError, ValueError):
        return (), set()
    names = {name for name in names if not {"/", "\\", "\0"} & set(name)} - {_base_name(file)}
    if not file.local:
        return (), names
    return tuple(path for name in sorted(names) if (path := file.local.with_name(name)).is_file()), names


def _folder(file: ImageFile) -> str:
    if file.local:
        return str(file.local.parent)
    return file.path.rpartition("/" if "/" in file.path.rpartition("!")[2] else "!")[0]


def _base_name(file: ImageFile) -> str:
    return file.local.name if file.local else re.split("[/!]", file.path)[-1]
