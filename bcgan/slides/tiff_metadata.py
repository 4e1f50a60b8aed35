"""Interpret the metadata of TIFF files: which image is the scan, and what its channels are."""

import re
import xml.etree.ElementTree as ET
from contextlib import suppress
from typing import Any

import tifffile

# Names of images that are stored with the scan, alone or with the word image: `label`, `macro image`.
ASSOCIATED_IMAGE = re.compile(r"\s*(slide )?(label|macro|thumbnail|overview|barcode)([ _-]?image)?\s*", re.IGNORECASE)
COLOR_CHANNELS = {"r": 0, "red": 0, "g": 1, "green": 1, "b": 2, "blue": 2}


def read_ome_images(tiff: tifffile.TiffFile) -> list[dict[str, Any]]:
    """Return what the OME metadata state of every image; [] without them.

    Each file of a set of OME-TIFF files has the metadata of all of them.

    Returns:
        Dicts with the keys name, pixels (attributes of the Pixels element), channels (names; "" for one without) and
        pages (of this file, ranges of their numbers; empty for an image of another file, `None` if nothing is stated).
    """
    if not tiff.is_ome:
        return []
    with suppress(ET.ParseError, ValueError):
        root, images = ET.fromstring(tiff.ome_metadata), []
        for image in root.findall("{*}Image"):
            pixels = image.find("{*}Pixels")
            if pixels is not None:
                channels = _name_channels(pixels.findall("{*}Channel"))
                image = {"name": image.get("Name", ""), "pixels": dict(pixels.attrib), "channels": channels}
                images.append({**image, "pages": _find_own_pages(root, pixels, tiff)})
        return images
    return []


def _name_channels(channels: list[ET.Element]) -> list[str]:
    """Return the names of OME channels; if none has one but a number, the colors in which they are shown."""
    names = [channel.get("Name", "") for channel in channels]
    colors = [(int(channel.get("Color", 0)) & 0xFFFFFFFF).to_bytes(4, "big") for channel in channels]
    has_names = any(name and not is_channel_number(name) for name in names)
    if has_names or not all(color[3] for color in colors):  # without opacity it is none, or of old files in other order
        return names
    return [_name_color(list(color[:3])) or name for name, color in zip(names, colors, strict=True)]


def _find_own_pages(root: ET.Element, pixels: ET.Element, tiff: tifffile.TiffFile) -> list[range] | None:
    """Return which pages of this file an OME Pixels element names; `None` if it names none of any file."""
    files = {uuid.text for uuid in root.iterfind(".//{*}UUID")}
    pages = []
    for data in pixels.findall("{*}TiffData"):
        uuid = data.find("{*}UUID")
        is_own = uuid is None or len(files) == 1 or uuid.text == root.get("UUID")
        if is_own or (root.get("UUID") is None and uuid.get("FileName", "").lower() == tiff.filename.lower()):
            first = int(data.get("IFD", 0))
            count = int(data.get("PlaneCount", data.get("NumPlanes", 1 if "IFD" in data.attrib else 0)))
            pages.append(range(first, first + count if count else len(tiff.pages)))
    return pages if pixels.find("{*}TiffData") is not None else None


def find_ome_image(tiff: tifffile.TiffFile, ome: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """Return the item of `read_ome_images` that describes a series: the one that names its page; {} if none does.

    tifffile leaves out images that are in other files, so that positions tell nothing unless no page is named at all.
    """
    if all(image["pages"] is None for image in ome):
        return ome[index] if index < len(ome) else {}
    page = first_page(tiff.series[index]).index
    number = page if isinstance(page, int) else page[0]  # a level has two numbers
    return next((image for image in ome if any(number in pages for pages in image["pages"] or ())), {})


def first_page(series: tifffile.TiffPageSeries) -> tifffile.TiffPage:
    """Return the first page of a series that is in this file."""
    return next(page for page in series.pages if page is not None).aspage()


def find_main_series(tiff: tifffile.TiffFile, ome: list[dict[str, Any]]) -> int:
    """Return the index of the series that is the scan: the first of the largest that are not a label or an overview."""

    def rank(index: int) -> tuple[bool, int, int]:
        keyframe = tiff.series[index].keyframe
        is_scan = not is_associated(series_name(tiff, ome, index))
        return is_scan, keyframe.imagewidth * keyframe.imagelength, -index

    if not tiff.series:
        raise ValueError("it has no image")
    return max(range(len(tiff.series)), key=rank)


def series_name(tiff: tifffile.TiffFile, ome: list[dict[str, Any]], index: int) -> str:
    """Return the name of a series, from the OME metadata if there are any."""
    return find_ome_image(tiff, ome, index).get("name", tiff.series[index].name) or ""


def is_associated(name: str) -> bool:
    """Return whether a series is a label or an overview, by its name."""
    return ASSOCIATED_IMAGE.fullmatch(name) is not None


def read_imagej_channels(tiff: tifffile.TiffFile) -> list[str]:
    """Return the names of the channels that ImageJ's metadata state; [] without them.

    Labels are names if they tell the channels apart. Without such, the colors in which the channels are shown are
    their names; gray is none.
    """
    metadata = tiff.imagej_metadata if tiff.is_imagej else None
    count = int((metadata or {}).get("channels", 1))
    if count < 2:
        return []
    # `c:1/3 z:1/5 - slide.tif` is the number of a channel.
    labels = [re.sub(r"/\d+.*", "", str(label)).strip() for label in metadata.get("Labels", [])[:count]]
    if len(set(labels)) > 1:
        return labels
    if metadata.get("mode") == "grayscale":
        return []
    return [_name_color([int(values[-1]) for values in table]) for table in metadata.get("LUTs", [])[:count]]


def _name_color(color: list[int]) -> str:
    """Return red, green or blue for a pure color, (red, green, blue), "" for a gray one, else "another color"."""
    if len(set(color)) == 1:
        return ""
    names = [name for name, value in zip(("red", "green", "blue"), color, strict=True) if value]
    return names[0] if len(names) == 1 else "another color"


def are_color_channels(names: list[str]) -> bool:
    """Return whether channels can be red, green and blue: each is named as one, or they have numbers or no names."""
    colors = [color_channel(name) for name in names]
    if any(color is not None for color in colors):
        return sorted(map(str, colors)) == ["0", "1", "2"]
    return all(is_channel_number(name) for name in names if name)


def color_channel(name: str) -> int | None:
    """Return 0, 1 or 2 for a channel named as red, green or blue; else `None`."""
    return COLOR_CHANNELS.get(name.strip().lower())


def is_channel_number(name: str) -> bool:
    """Return whether the name of a channel is nothing but its number."""
    return bool(re.fullmatch(r"(channel|ch|c)?[\s:_-]*(0[:_-])?\d+([:_-]\d+)*", name.strip(), re.IGNORECASE))
