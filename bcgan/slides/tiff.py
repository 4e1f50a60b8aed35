"""Read regions of TIFF files of any layout with tifffile: strips, tiles, planes, pyramids, BigTIFF, OME and ImageJ."""

import io
import logging
import math
import os
import re
import struct
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from bcgan.slides.base import SlideImage
from bcgan.slides.levels import is_same_picture
from bcgan.slides.scale import Mpp, doubt_size, find_aperio_sizes, imagej_mpp, make_mpp, ome_mpp, tiff_mpp
from bcgan.slides.tiff_metadata import (
    are_color_channels,
    color_channel,
    find_main_series,
    find_ome_image,
    first_page,
    is_associated,
    read_imagej_channels,
    read_ome_images,
    series_name,
)
from bcgan.slides.tiff_pixels import check_layout, decode_segment, largest_color, to_rgb

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it cannot read is raised here with the file's name
APERIO_MPP = re.compile(r"\bMPP\s*=\s*(\d*[.,]?\d+)")
CACHE_BYTES = 2**27  # of decoded strips and tiles
BLOCK_PX = 2048
MAX_PAGES = 20_000


class _OneFile(io.FileIO):
    """A file whose siblings tifffile does not open, as it would beside any file with a number.

    Each file of a set is an image by itself, with the same pixels whether the others are there, and in an archive.
    """

    def fileno(self) -> int:
        raise OSError("its number is not used")


class TiffSlide(SlideImage):
    """A TIFF file; see `bcgan.slides.base.SlideImage`."""

    def __init__(self, file: BinaryIO, name: str, file_size: int):
        """Read the file's metadata; `file_size`, bytes, limits the sizes that it may claim."""
        self._file = file
        self._tiff = tifffile.TiffFile(file)
        _check_pages(self._tiff)
        self._name = name
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        ome = read_ome_images(self._tiff)
        index = find_main_series(self._tiff, ome)
        self._image = find_ome_image(self._tiff, ome, index)
        self._channels = self._image.get("channels") or read_imagej_channels(self._tiff)
        self._levels = self._find_levels(self._tiff.series[index])
        sizes = [(pages[0].imagewidth, pages[0].imagelength) for pages in self._levels]
        first = self._levels[0][0]
        super().__init__(name, sizes, self._find_mpp(first), _block_size(first))
        for page in (page for pages in self._levels for page in pages):
            check_layout(page, name, file_size)
        self._largest = None
        self._warn_of_other_images(index, ome, self._remove_other_pictures())
        self._largest = self._largest_value() if first.dtype == np.uint16 else None

    def _find_levels(self, series: tifffile.TiffPageSeries) -> list[list[tifffile.TiffPage]]:
        """Return the pages of every level: one page, or one for each of three color planes."""
        levels = [self._find_planes(level) for level in series.levels]
        first = levels[0][0]
        if len(levels) == 1 and len(levels[0]) == 1:  # libvips writes pyramids as pages that are marked as reduced
            for page in self._tiff.pages[first.index + 1 :] if isinstance(first.index, int) else ():
                page = page.aspage()
                if not page.is_reduced:  # another image, followed by its own levels
                    break
                ratios = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
                if (
                    page.samplesperpixel == first.samplesperpixel
                    and min(ratios) > 1.5
                    and 0.97 < ratios[0] / ratios[1] < 1.03
                ):
                    levels.append([page])
        return sorted(levels, key=lambda pages: -pages[0].imagewidth)

    def _remove_other_pictures(self) -> int:
        """Remove levels that are not marked as reduced and show another picture; return how many they were.

        tifffile takes any page of half the sides for a level.
        """
        level, removed = 1, 0
        while level < len(self.sizes):
            if self._levels[level][0].is_reduced or is_same_picture(self, level):
                level += 1
            else:
                del self.sizes[level], self._levels[level]
                removed += 1
        return removed

    def _warn_of_other_images(self, index: int, ome: list[dict[str, Any]], removed: int) -> None:
        """Warn if the file has other images that are not read, apart from labels, overviews and levels of this one.

        Args:
            index: Of the series that is read.
            removed: Number of images in this series that turned out to be others.
        """
        read_offsets = {page.offset for pages in self._levels for page in pages}
        unread = [
            other
            for other, series in enumerate(self._tiff.series)
            if other != index
            and not is_associated(series_name(self._tiff, ome, other))
            and series.keyframe.offset not in read_offsets
            and not series.keyframe.is_reduced
        ]
        if count := len(unread) + removed:
            logging.getLogger("bcgan").warning("%s has %d more images; the largest is read", self._name, count)

    def _find_planes(self, series: tifffile.TiffPageSeries) -> list[tifffile.TiffPage]:
        """Return the pages of a level: one, or its red, green and blue plane.

        Raises:
            ValueError: If its channels are not red, green and blue.
        """
        page = first_page(series)
        channels = dict(zip(series.axes, series.shape, strict=True))
        count = channels.get("C", 1) if page.samplesperpixel == 1 else 1
        leading = [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXS"]
        if page.samplesperpixel == 1 and count == 1 and channels.get("Q") == 3:
            count = 3  # three gray planes, as arrays are often saved: red, green and blue
            leading = [("C" if axis == "Q" else axis, size) for axis, size in leading]
        axes = [axis for axis, size in leading if size > 1 and axis != "C"]
        if axes:
            logging.getLogger("bcgan").warning(
                "%s has %s images on the axes %s; the first is read",
                self._name, math.prod(size for axis, size in leading if axis != "C"), "".join(axes),
            )  # fmt: skip
        if count == 1:
            return [page]
        if count != 3 or not are_color_channels(self._channels):
            raise ValueError(
                f"{self._name} has {count} channels that are not red, green and blue. Give a bright-field image in RGB"
            )
        shape = [size for _, size in leading]
        pages = []
        for channel in self._channel_order():
            position = [channel if axis == "C" else 0 for axis, _ in leading]
            index = int(np.ravel_multi_index(position, shape))
            if index >= len(series.pages) or series.pages[index] is None:
                raise ValueError(f"{self._name} has a color plane that is not in this file. Give all its files as one")
            pages.append(series.pages[index].aspage())
        return pages

    def _channel_order(self) -> list[int]:
        """Return the indices of the red, green and blue channel by their names; without such names 0, 1 and 2."""
        colors = [color_channel(name) for name in self._channels]
        if sorted(map(str, colors)) == ["0", "1", "2"]:
            return [colors.index(color) for color in range(3)]
        return [0, 1, 2]

    def _find_mpp(self, page: tifffile.TiffPage) -> Mpp | None:
        """Return the resolution that the first page states: by OME, Aperio, ImageJ or TIFF tags, in this order."""
        pixels, size = self._image.get("pixels", {}), (page.imagewidth, page.imagelength)
        if mpp := ome_mpp(pixels):
            return doubt_size(mpp, size, [(int(pixels["SizeX"]), int(pixels["SizeY"]))])
        if match := APERIO_MPP.search(page.description or ""):
            mpp = make_mpp(match[1].replace(",", "."), None, "vendor", match[0])
            return doubt_size(mpp, size, find_aperio_sizes(page.description))
        x_resolution, y_resolution = (_to_float(page.tags.valueof(tag)) for tag in (282, 283))  # X- and YResolution
        metadata = self._tiff.imagej_metadata if self._tiff.is_imagej else None
        if metadata and "unit" in metadata:
            return imagej_mpp(metadata, x_resolution, y_resolution)
        unit = page.tags.valueof(296)  # ResolutionUnit
        if unit is None:  # inches, by the standard; a program that writes 1 without a unit states nothing
            unit = 2 if x_resolution > 1 else 1
        return tiff_mpp(x_resolution, y_resolution, int(unit))

    def _largest_value(self) -> int | None:
        """Estimate the brightest color of a 16-bit image, which tells how many bits are used, at its smallest level."""
        level = len(self.sizes) - 1
        level_width, level_height = self.sizes[level]
        width, height = min(level_width, 2048), min(level_height, 2048)
        left, top = (level_width - width) // 2, (level_height - height) // 2
        return largest_color(self._read_samples(level, left, top, width, height), self._levels[level][0])

    def read_region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a region, given in pixels of the level, as uint8 RGB, (height, width, 3); ValueError if damaged."""
        try:
            return to_rgb(
                self._read_samples(level, x, y, width, height), self._levels[level][0], self._name, self._largest
            )
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a damaged strip ends in whatever its codec raises
            if isinstance(error, ValueError) and str(error).startswith(self._name):
                raise
            raise ValueError(f"{self._name} is damaged ({type(error).__name__}: {error})") from error

    def _read_samples(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a region of a level as stored, (height, width, samples); separate color planes become samples."""
        parts = [self._read_page(page, x, y, width, height) for page in self._levels[level]]
        return parts[0] if len(parts) == 1 else np.concatenate([part[..., :1] for part in parts], axis=2)

    def _read_page(self, page: tifffile.TiffPage, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return a region of a page, put together from its strips or tiles: (height, width, samples), as stored."""
        separate, depth, length, across, contiguous = page.shaped
        high, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, length), across)
        rows, columns = -(-length // high), -(-across // wide)
        # Empty strips and tiles are white.
        fill = 255 if page.dtype == np.uint8 else np.iinfo(np.uint16).max if page.dtype == np.uint16 else True
        if page.photometric in (0, 3, 5):  # 0 is white, an index, or no ink
            fill = 0
        region = np.full((height, width, separate * contiguous), fill, page.dtype)
        jobs = [
            (plane, row, column)
            for plane in range(separate)
            for row in range(y // high, min(rows, -(-(y + height) // high)))
            for column in range(x // wide, min(columns, -(-(x + width) // wide)))
        ]
        numbers = [(plane * depth * rows + row) * columns + column for plane, row, column in jobs]
        for (plane, row, column), segment in zip(jobs, self._get_segments(page, numbers), strict=True):
            if segment is None:
                continue
            top, left = row * high, column * wide  # of the segment, in the page; its overlap with the region is copied
            inner = segment[max(0, y - top) : y + height - top, max(0, x - left) : x + width - left]
            down, right = max(0, top - y), max(0, left - x)
            inner = inner[: height - down, : width - right]
            samples = slice(plane * contiguous, (plane + 1) * contiguous)
            region[down : down + inner.shape[0], right : right + inner.shape[1], samples] = inner
        return region

    def _get_segments(self, page: tifffile.TiffPage, numbers: list[int]) -> list[np.ndarray | None]:
        """Return decoded strips or tiles, from the cache if they are in it.

        Args:
            numbers: Indices into the page's list of strips or tiles.

        Returns:
            Arrays, (height, width, samples) each; `None` for an empty one.
        """
        segments = {number: self._cache.get((page.index, page.offset, number)) for number in numbers}
        missing = [number for number in segments if segments[number] is None]
        encoded = [self._read_segment_bytes(page, number) for number in missing]
        if len(missing) > 1:
            self._pool = self._pool or ThreadPoolExecutor(min(4, os.cpu_count() or 1))
            decoded = list(self._pool.map(lambda pair: decode_segment(page, *pair), zip(encoded, missing, strict=True)))
        else:
            decoded = [decode_segment(page, data, number) for data, number in zip(encoded, missing, strict=True)]
        for number, segment in zip(missing, decoded, strict=True):
            segments[number] = segment
            if segment is not None:
                self._cache[page.index, page.offset, number] = segment
        while len(self._cache) > 1 and sum(segment.nbytes for segment in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return [segments[number] for number in numbers]

    def _read_segment_bytes(self, page: tifffile.TiffPage, number: int) -> bytes | None:
        """Return the encoded bytes of a strip or tile; `None` if it is empty.

        Raises:
            ValueError: If the file is damaged or truncated.
        """
        if number >= len(page.dataoffsets):
            raise ValueError(f"{self._name} is damaged: it lacks strips or tiles that its header names")
        offset, count = page.dataoffsets[number], page.databytecounts[number]
        if not offset or not count:
            return None
        file = self._tiff.filehandle
        file.seek(offset)
        data = file.read(count)
        if len(data) < count:
            raise ValueError(f"{self._name} is truncated: it ends within its pixels")
        return data

    def close(self) -> None:
        """Close the file and its threads."""
        if self._pool:
            self._pool.shutdown()
        self._tiff.close()
        self._file.close()


def open_tiff(file: Path | BinaryIO, name: str, file_size: int) -> TiffSlide:
    """Open a TIFF file. `name` is for messages; `file_size`, bytes, limits the image sizes that the file may claim.

    Raises:
        ValueError: If it is damaged or has a layout that is not read.
        OSError: If it cannot be read.
    """
    stream = io.BufferedReader(_OneFile(os.fspath(file))) if isinstance(file, Path) else file
    try:
        return TiffSlide(stream, name, file_size)
    except Exception as error:  # a broken header ends in whatever its reader raises
        stream.close()
        if isinstance(error, OSError | MemoryError) or (isinstance(error, ValueError) and str(error).startswith(name)):
            raise
        raise ValueError(f"{name} is not a TIFF that can be read ({type(error).__name__}: {error})") from error


def _block_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return (width, height) that should be read at once: whole tiles, or whole rows of a file in strips."""
    if page.is_tiled:
        return tuple(max(1, BLOCK_PX // side) * side for side in (page.tilewidth, page.tilelength))
    return page.imagewidth, max(1, BLOCK_PX * BLOCK_PX // max(1, page.imagewidth))


def _check_pages(tiff: tifffile.TiffFile) -> None:
    """Raise ValueError if the pages form a cycle, which tifffile would follow forever, or are too many."""
    file, layout, offsets, offset = tiff.filehandle, tiff.tiff, set(), tiff.pages.first.offset
    while 0 < offset < file.size:
        if offset in offsets or len(offsets) == MAX_PAGES:
            raise ValueError(
                "its pages lead in a circle" if offset in offsets else f"it has more than {MAX_PAGES:,} pages"
            )
        offsets.add(offset)
        try:
            file.seek(offset)
            (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
            file.seek(offset + layout.tagnosize + tags * layout.tagsize)
            (offset,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
        except (struct.error, OSError):  # tifffile treats this as the last page too
            break


def _to_float(value: Any) -> float:
    """Return the value of a TIFF tag, a number or a pair (numerator, denominator); 0 if it is missing or invalid."""
    with suppress(TypeError, ZeroDivisionError, ValueError):
        return value[0] / value[1] if isinstance(value, tuple) else float(value)
    return 0.0
