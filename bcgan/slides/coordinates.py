"""Parse the coordinates of a tile in its slide from its file name, as common tools write it."""

import re
from typing import NamedTuple

from bcgan.slides.files import strip_suffixes

# `<slide> [d=2,x=512,y=0,w=256,h=256,z=1]`: QuPath; pixels of the slide, `d` of them for one of the tile's.
QUPATH = re.compile(
    r"(?P<slide>.+?) ?\[(?:d=(?P<downsample>\d{1,4}(?:\.\d+)?),)?x=(?P<x>-?\d{1,9}),y=(?P<y>-?\d{1,9}),w=\d+,h=\d+"
    r"(?P<layer>(?:,[zt]=\d+)*)\]",
    re.DOTALL,
)
# `<slide>_tile_7_level0_512-0-768-256`: histolab; corners in pixels of the slide.
HISTOLAB = re.compile(r"(?P<slide>.*?)_?tile_\d+_level\d+_(?P<x>\d{1,9})-(?P<y>\d{1,9})-\d{1,9}-\d{1,9}", re.DOTALL)
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


def parse_tile_name(name: str) -> TileCoordinates | None:
    """Return the coordinates that a tile's file name states, with or without its suffix; `None` if it states none.

    Only QuPath's names state the downsample, so that only their coordinates are converted to pixels of the tile. For
    other names `downsample` is 1 and the unit is open: `bcgan.slides.tiles.find_downsample` infers it.
    """
    name = strip_suffixes(name)
    if match := QUPATH.fullmatch(name):
        downsample = float(match["downsample"] or 1)
        if not downsample:
            return None
        x, y = (round(int(match[axis]) / downsample) for axis in "xy")
        return TileCoordinates(x, y, match["slide"] + match["layer"], downsample, "QuPath's [x=,y=]")
    for pattern, title in ((HISTOLAB, "histolab's"), (NAMED, "_x<x>_y<y>"), (PLAIN, PLAIN_PATTERN)):
        if (match := pattern.fullmatch(name)) and match["slide"].strip(" _-"):
            return TileCoordinates(int(match["x"]), int(match["y"]), match["slide"], 1.0, title)
    return None
