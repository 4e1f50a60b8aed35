"""Parse the coordinates of a tile in its slide from its file name, as common tools write it."""

import re
from typing import NamedTuple

from bcgan.slides.files import strip_suffixes

# `<slide> [d=2,x=512,y=0,w=256,h=256,z=1]`: QuPath; pixels of the slide, `d` of them for one of the tile's.
QUPATH = re.compile(
    r"(?P<slide>.+?) ?\[(?:d=(?P<downsample>\d{1,4}(?:\.\d+)?),)?x=(?P<x>-?\d{1,9}),y=(?P<y>-?\d{1,9}),"
    r"w=(?P<width>\d{1,9}),h=(?P<height>\d{1,9})"
    r"(?P<layer>(?:,[zt]=\d+)*)\]",
    re.DOTALL,
)
# `<slide>_tile_7_level0_512-0-768-256`: histolab; two opposite corners, in pixels of the slide at any level.
HISTOLAB = re.compile(
    r"(?P<slide>.*?)_?tile_\d+_level(?P<level>-?\d+)_(?P<x>\d{1,9})-(?P<y>\d{1,9})-(?P<right>\d{1,9})-(?P<bottom>\d{1,9})",
    re.DOTALL,
)
# `<slide>_x512_y0<_anything>`: the public archive of IDC, and others.
NAMED = re.compile(
    r"(?P<slide>.+?)[ _-]?[xX][_=-]?(?P<x>\d{1,9})[ _,-]+[yY][_=-]?(?P<y>\d{1,9})(?:[_ -].*)?", re.DOTALL
)
# `<slide>_512_0`, `<slide>-512-0`, `<slide>_(512,0)`: many scripts.
PLAIN = re.compile(r"(?P<slide>.+?)[ _-][\[(]?(?P<x>\d{1,9})[_,-] ?(?P<y>\d{1,9})[\])]?", re.DOTALL)

PLAIN_PATTERN = "_<x>_<y>"


class TileCoordinates(NamedTuple):
    """The coordinates that the name of a tile states."""

    x: int  # upper left corner, pixels of the tile
    y: int
    slide: str  # name of the slide, with the layer of a stack
    downsample: float  # pixels of the slide for one of the tile's
    pattern: str  # the naming pattern, for messages
    extent: float = 0.0  # longer side of the tile as the name states it, in the pixels of x and y; 0 if it states none


def parse_tile_name(name: str) -> TileCoordinates | None:
    """Return the coordinates that a tile's file name states, with or without its suffix; `None` if it states none.

    Only QuPath's names state the downsample, so that only their coordinates are converted to pixels of the tile. For
    other names `downsample` is 1. The size of the tile tells their unit where they state the tile's extent; where they
    do not, the unit is open: `bcgan.slides.tiles.find_downsample` infers it.
    """
    name = strip_suffixes(name)
    if match := QUPATH.fullmatch(name):
        downsample, extent = float(match["downsample"] or 1), max(int(match["width"]), int(match["height"]))
        if not downsample:
            return None
        x, y = (round(int(match[axis]) / downsample) for axis in "xy")
        slide = match["slide"] + match["layer"]
        return TileCoordinates(x, y, slide, downsample, "QuPath's [x=,y=]", extent / downsample)
    if (match := HISTOLAB.fullmatch(name)) and match["slide"].strip(" _-"):
        x, y, right, bottom = (int(match[side]) for side in ("x", "y", "right", "bottom"))
        slide = match["slide"] + ("" if match["level"] == "0" else f" level {match['level']}")
        return TileCoordinates(x, y, slide, 1.0, "histolab's", max(right - x, bottom - y, 0))
    for pattern, title in ((NAMED, "_x<x>_y<y>"), (PLAIN, PLAIN_PATTERN)):
        if (match := pattern.fullmatch(name)) and match["slide"].strip(" _-"):
            return TileCoordinates(int(match["x"]), int(match["y"]), match["slide"], 1.0, title)
    return None
