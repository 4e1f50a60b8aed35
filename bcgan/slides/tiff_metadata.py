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

    Returns:
        Dicts with the keys name, pixels (attributes of the Pixels element) and channels (names; "" for one without).
    """
    if not tiff.is_ome:
        return []
    with suppress(ET.ParseError, ValueError):
        images = []
        for image in ET.fromstring(tiff.ome_metadata).findall("{*}Image"):
            pixels = image.find("{*}Pixels")
            if pixels is not None:
                channels = [channel.get("Name", "") for channel in pixels.findall("{*}Channel")]
                images.append({"name": image.get("Name", ""), "pixels": dict(pixels.attrib), "channels": channels})
        return images
    return []


def find_main_series(tiff: tifffile.TiffFile, ome: list[dict[str, Any]]) -> int:
    """Return the index of the series that is the scan: the first of the largest that are not a label or an overview."""

    def rank(index: int) -> tuple[bool, int, int]:
        keyframe = tiff.series[index].pages[0].keyframe
        is_scan = not is_associated(series_name(tiff, ome, index))
        return is_scan, keyframe.imagewidth * keyframe.imagelength, -index

    if not tiff.series:
        raise ValueError("it has no image")
    return max(range(len(tiff.series)), key=rank)


def series_name(tiff: tifffile.TiffFile, ome: list[dict[str, Any]], index: int) -> str:
    """Return the name of a series, from the OME metadata if there are any; their images are in the same order."""
    return (ome[index]["name"] if index < len(ome) else tiff.series[index].name) or ""


def is_associated(name: str) -> bool:
    """Return whether a series is a label or an overview, by its name."""
    return ASSOCIATED_IMAGE.fullmatch(name) is not None


def color_channel(name: str) -> int | None:
    """Return 0, 1 or 2 for a channel named as red, green or blue; else `None`."""
    return COLOR_CHANNELS.get(name.strip().lower())


def is_channel_number(name: str) -> bool:
    """Return whether the name of a channel is nothing but its number."""
    return bool(re.fullmatch(r"(channel|ch|c)?[\s:_-]*(0[:_-])?\d+([:_-]\d+)*", name.strip(), re.IGNORECASE))
