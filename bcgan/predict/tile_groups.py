"""Find files that are tiles of one slide, by their names, and read them together, to predict each in its context."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bcgan import progress
from bcgan.classify.context import RADII
from bcgan.data.slide_names import drop_last_class_folder
from bcgan.predict.model import Model
from bcgan.slides.areas import divide_area
from bcgan.slides.coordinates import PLAIN_PATTERN, TileCoordinates, parse_tile_name
from bcgan.slides.decode import MAX_PIXELS
from bcgan.slides.files import ImageFile, printable
from bcgan.slides.patches import PatchGrid, patch_corners
from bcgan.slides.reader import open_image
from bcgan.slides.scale import Mpp, Scale, resolve_scale
from bcgan.slides.tiles import (
    MIN_COVERED,
    Tile,
    are_transposed,
    complete_tiles,
    draw_mosaic,
    find_contradiction,
    find_downsample,
    read_tile,
    stated_downsample,
)
from bcgan.slides.tissue import estimate_background, fill_unscanned, tissue_mask

MIN_SPACING_PX = 16  # that the tiles of a slide span at least
MAX_SIZE_RATIO = 1.5  # of an image's side to the median side; a larger image is no tile, such as an overview
NUM_SAMPLED = 32  # tiles from which the size is estimated
NUM_BACKGROUND_TILES = 400  # tiles from which the color of the background is estimated


class Group(NamedTuple):
    """Images that are predicted together."""

    slide: str  # name of the slide whose tiles the images are; "" if they are no tiles
    images: list[ImageFile]
    coordinates: list[TileCoordinates]  # as the names state them
    slide_path: str = ""  # the name with the folder, and the downsample if the names state one; unlike the name unique
    in_tile_pixels: bool = False  # whether the coordinates are known to be pixels of the tiles, as those of a table


class SlideTiles(NamedTuple):
    """The patches of the tiles of one slide.

    Attributes:
        patches: uint8, (n, size, size, 3).
        corners: Integers, (n, 2), x and y in the slide of the tile or part that each patch stands for, pixels at the
            model's scale.
        offsets: x and y of each patch in its file, pixels of the file.
        has_tissue: bool, (n,).
        areas: The area that each patch with tissue stands for, square pixels at the model's scale, float (n,): of its
            tile, or of the part of a larger tile, without what others have of it; 0 without tissue.
        scales: Scale of the file of each patch.
        rows: Indices of the patches of each file, by its path.
        reasons: Why other files are not predicted, by path.
        larger: Paths of images much larger than a tile, which are predicted separately.
        tiles: The tiles at the model's scale, for the map.
        tile_px: Median side of a tile, or of the patches of larger tiles, pixels at the model's scale.
        downsample: Pixels of the slide, as the names count them, for one pixel of a tile.
        summary: In words, which naming pattern states the coordinates, and in what unit.
    """

    patches: np.ndarray
    corners: np.ndarray
    offsets: list[tuple[int, int]]
    has_tissue: np.ndarray
    areas: np.ndarray
    scales: list[Scale]
    rows: dict[str, list[int]]
    reasons: dict[str, str]
    larger: set[str]
    tiles: list[Tile]
    tile_px: float
    downsample: float
    summary: str

    def to_grid(self) -> PatchGrid:
        """Return the tiles as the patches of one image, their mosaic, of which `bcgan.predict.maps` draws a map."""
        image, zoom = draw_mosaic([tile.pixels for tile in self.tiles], np.array([tile.corner for tile in self.tiles]))
        first = self.scales[0]
        x, y = first.x * self.downsample, first.y * self.downsample  # pixels of the slide for one of the model's
        scale = Scale(x, y, first.mpp, first.source, is_single_patch=False)
        tissue = np.broadcast_to(self.has_tissue[:, None, None], self.patches.shape[:3])  # of a tile all or nothing
        return PatchGrid(
            self.patches, self.corners, scale, tissue, image, zoom, is_single_patch=False, tile_px=self.tile_px
        )


def find_groups_by_folder(images: list[ImageFile], classes: tuple[str, ...]) -> list[Group]:
    """Group images whose labels and patients are not known: tiles of a slide lie in one folder, or in those of classes.

    Folders 2, 3 and so on are those of classes only beside 0 and 1. Else they may be those of patients or slides.

    Args:
        classes: Of the classifier.
    """
    folders = {_folder_of(image) for image in images}

    def root_of(folder: str) -> str:
        parent, separator, name = folder.rpartition("/")
        is_number = name.isdecimal() and int(name) > 1
        if is_number and not {f"{parent}{separator}{number}" for number in (0, 1)} <= folders:
            return folder
        return drop_last_class_folder(folder, classes)

    return find_groups(images, root_of)


def _folder_of(image: ImageFile) -> str:
    """Return the path of an image's folder, also in an archive."""
    return image.path.replace("!", "/").rpartition("/")[0]


def list_slides(images: list[ImageFile], classes: tuple[str, ...]) -> list[str]:
    """Return the slide of each group of images: the common name of its tiles, else the file. Only names are read.

    Args:
        classes: Of the classifier.
    """
    groups = find_groups_by_folder(images, classes)
    return [slide for group in groups for slide in ([group.slide_path] if group.slide else [group.images[0].path])]


def warn_of_split_slides(groups: list[Group], classes: tuple[str, ...]) -> None:
    """Warn of slides of one name in several folders whose tiles lie among each other: they may be parts of one slide.

    Args:
        classes: Of the classifier, for the message.
    """
    by_name: dict[tuple[str, float], list[Group]] = {}
    for group in groups:
        if group.slide:
            by_name.setdefault((group.slide, group.coordinates[0].downsample), []).append(group)
    split = []
    for members in by_name.values():
        places = [(tile.x, tile.y) for group in members for tile in group.coordinates]
        if len(members) > 1 and len(set(places)) == len(places) and (pair := _find_interleaved(members)):
            split.append(pair)
    if split:
        progress.log.warning(
            "predict: %s and %s are read as two slides, as their tiles lie in two folders (%d such names). If they are "
            "parts of one slide, move its tiles into one folder, or name the folders as the classes (%s)",
            printable(split[0][0].slide_path), printable(split[0][1].slide_path), len(split), ", ".join(classes),
        )  # fmt: skip


def _find_interleaved(groups: list[Group]) -> tuple[Group, Group] | None:
    """Return the first two groups of tiles whose bounding boxes overlap; `None` if there are none."""
    places = [np.array([(tile.x, tile.y) for tile in group.coordinates]) for group in groups]
    low, high = (np.array([limit(corners, 0) for corners in places]) for limit in (np.min, np.max))
    for index in range(1, len(groups)):
        overlaps = ((low[:index] <= high[index]) & (low[index] <= high[:index])).all(1)
        if overlaps.any():
            return groups[int(overlaps.argmax())], groups[index]
    return None


def find_groups(images: list[ImageFile], root_of: Callable[[str], str]) -> list[Group]:
    """Group images into tiles of one slide and single images.

    Tiles of a slide lie in one folder, or in its folders of the classes.

    Args:
        root_of: Returns the folder of a slide for the folder of one of its tiles, without folders of classes.
    """
    files: dict[Any, list[tuple[ImageFile, TileCoordinates | None]]] = {}
    for index, image in enumerate(images):
        coordinates = parse_tile_name(image.path.replace("!", "/").rpartition("/")[2])
        key: Any = index  # an image that is no tile is a group of its own
        if coordinates:
            key = coordinates.slide, root_of(_folder_of(image)), coordinates.downsample
        files.setdefault(key, []).append((image, coordinates))
    groups = []
    for key, pairs in files.items():
        members, coordinates = [image for image, _ in pairs], [coordinates for _, coordinates in pairs]
        are_tiles = len(members) > 1 and _may_be_pixels(coordinates)
        if not are_tiles:
            groups.append(Group("", members, coordinates))
            continue
        slide, root, downsample = key
        folder, suffix = f"{root}/" if root else "", "" if downsample == 1 else f" 1 in {downsample:g}"
        groups.append(Group(slide, members, coordinates, f"{folder}{slide}{suffix}"))
    return groups


def _may_be_pixels(coordinates: list[TileCoordinates]) -> bool:
    """Return whether the two numbers in the names of a slide's tiles can be pixel coordinates.

    Only names that end in two plain numbers are in doubt: these may be counters or dates, as in `slide-40-001`, and
    have to span MIN_SPACING_PX.
    """
    if coordinates[0].pattern != PLAIN_PATTERN:
        return True
    x, y = np.array([(tile.x, tile.y) for tile in coordinates]).T
    return max(np.ptp(x), np.ptp(y)) >= MIN_SPACING_PX


def read_group(group: Group, model: Model, mpp_of: Callable[[ImageFile], Mpp | None]) -> SlideTiles | str:
    """Read the tiles of one slide.

    Args:
        mpp_of: Returns the resolution that the user gives for an image; `None` if there is none.

    Returns:
        The tiles. If the coordinates cannot be used, a string with the reason: the images are then predicted
        separately. "" if no file can be read.
    """
    sides = _sample_sides(group)
    if not sides:
        return ""  # each file is reported when it is read
    side = float(np.median([pixels for pixels, _ in sides]))
    name, pattern = printable(group.slide), group.coordinates[0].pattern
    is_plain = pattern == PLAIN_PATTERN
    stated = [(pixels, extent) for pixels, extent in sides if extent]
    if side**2 > MAX_PIXELS:
        downsample = None
    elif group.in_tile_pixels or stated:
        downsample = stated_downsample(stated, group.coordinates[0].downsample)
    else:
        coordinates = np.array([(corner.x, corner.y) for corner in group.coordinates])
        downsample = find_downsample(coordinates, side, RADII[-1], needs_grid=is_plain)
    if downsample is None:
        return (
            f"{name}: its files are named like tiles ({pattern}), but they are {side:g} pixels wide and the "
            "coordinates in their names do not lie side by side: the names are not used, and each file is predicted "
            "separately"
        )
    files = _read_tiles(group, downsample, side, model, mpp_of)
    is_transposed = is_plain and are_transposed(list(files.tiles.values()))
    if is_transposed:
        swapped = [corner._replace(x=corner.y, y=corner.x) for corner in group.coordinates]
        files = _read_tiles(group._replace(coordinates=swapped), downsample, side, model, mpp_of)
    if contradiction := find_contradiction(list(files.tiles.values()), bool(stated), downsample):
        return (
            f"{name}: its tiles {contradiction.format(f'({pattern})')}: the places are not used, and each file is "
            "predicted separately"
        )
    unit = "the tiles' own pixels" if abs(downsample - 1) < 0.01 else f"{downsample:g} pixels for one of a tile's"
    summary = f"{pattern}, which count {unit}{', y before x' if is_transposed else ''}"
    downsample *= group.coordinates[0].downsample
    return _build_slide_tiles(files, model.card.size, downsample, summary, model.card.min_tissue)


class _TileFiles(NamedTuple):
    """The files of a slide's tiles, read at the model's scale; all are by path."""

    tiles: dict[str, Tile]
    scales: dict[str, Scale]
    reasons: dict[str, str]  # why files cannot be read
    larger: set[str]  # images much larger than a tile, such as an overview of the slide


def _read_tiles(
    group: Group, downsample: float, side: float, model: Model, mpp_of: Callable[[ImageFile], Mpp | None]
) -> _TileFiles:
    """Read the tiles of a slide at the model's scale.

    Args:
        downsample: Pixels of the coordinates for one pixel of a tile.
        side: Median side of the images, pixels.
    """
    files = _TileFiles({}, {}, {}, set())
    for image, named in zip(group.images, group.coordinates, strict=True):
        corner = named._replace(x=round(named.x / downsample), y=round(named.y / downsample))
        try:
            with open_image(image) as opened:
                scale = resolve_scale(opened.size, mpp_of(image) or opened.mpp, model.scale, image.path)
                if max(opened.size) > MAX_SIZE_RATIO * side and not scale.is_single_patch:
                    files.larger.add(image.path)
                    continue
                files.tiles[image.path] = read_tile(opened, scale, corner)
                files.scales[image.path] = scale
        except (OSError, ValueError) as error:
            files.reasons[image.path] = str(error)
    return files


def _sample_sides(group: Group) -> list[tuple[int, float]]:
    """Return the longer side of some of a group's images, pixels, and the one that the name states, 0 for none."""
    sides = []
    step = max(1, len(group.images) // NUM_SAMPLED)
    for image, named in zip(group.images[::step], group.coordinates[::step], strict=True):
        try:
            with open_image(image) as opened:
                sides.append((max(opened.size), named.extent))
        except (OSError, ValueError):
            continue  # reported when the image is read
    return sides


def _build_slide_tiles(files: _TileFiles, size: int, downsample: float, summary: str, min_tissue: float) -> SlideTiles:
    """Make the patches of the tiles: one of a tile up to the size of a patch, several of a larger tile.

    A tile smaller than a patch is completed from the tiles around it. If these cover too little of the patch, the
    reason is added to `files.reasons`.

    Args:
        size: Side of a patch, pixels at the model's scale.
        downsample, summary: As `SlideTiles` has them.
        min_tissue: Least fraction of a patch that is tissue.
    """
    paths, tiles = list(files.tiles), list(files.tiles.values())
    background = _estimate_background(tiles) if tiles else None
    tiles = [tile._replace(pixels=fill_unscanned(tile.pixels, background)) for tile in tiles]
    is_small = [min(tile.pixels.shape[:2]) < size for tile in tiles]
    completed, covered = complete_tiles(tiles, size) if any(is_small) else (None, None)
    parts: list[_Part] = []
    rows, scales, offsets = {}, [], []
    for index, (path, tile) in enumerate(zip(paths, tiles, strict=True)):
        if is_small[index] and covered[index] < MIN_COVERED:
            files.reasons[path] = f"{path} is {_describe_small_tile(tile, size, covered[index])}"
            continue
        mask = tissue_mask(tile.pixels, background)
        if is_small[index]:
            of_tile = [_Part(completed[index], np.zeros(2, int), mask.mean(), tile.corner, tile.size)]
        else:
            of_tile = _cut_tile(tile, mask, size, min_tissue)
        rows[path] = list(range(len(parts), len(parts) + len(of_tile)))
        parts += of_tile
        scales += [scale := files.scales[path]] * len(of_tile)
        offsets += [tuple(np.rint(part.offset * (scale.x, scale.y)).astype(int)) for part in of_tile]
    corners = np.array([part.corner for part in parts], int).reshape(-1, 2)
    sizes = np.array([part.size for part in parts], int).reshape(-1, 2)
    has_tissue, areas = np.array([part.tissue_fraction >= min_tissue for part in parts], bool), np.zeros(len(parts))
    areas[has_tissue] = divide_area(corners[has_tissue], sizes[has_tissue])
    side_lengths = [min(max(tile.pixels.shape[:2]), size) for tile in tiles]
    return SlideTiles(
        np.stack([part.patch for part in parts]) if parts else np.empty((0, size, size, 3), np.uint8),
        corners,
        offsets,
        has_tissue,
        areas,
        scales,
        rows,
        files.reasons,
        files.larger,
        [files.tiles[path] for path in rows],
        float(np.median(side_lengths)) if side_lengths else size,
        downsample,
        summary,
    )


def _describe_small_tile(tile: Tile, size: int, covered: float) -> str:
    """Return why a tile cannot be completed to a patch, of which the fraction `covered` is known, and the remedy."""
    height, width = tile.pixels.shape[:2]
    return (
        f"smaller than a patch: {width}x{height} pixels at the model's scale, where a patch has {size}x{size}, and "
        f"with the tiles around it {100 * covered:.0f} % of one are known, of which {100 * MIN_COVERED:.0f} % are "
        "needed. Check its microns per pixel, or give the tiles around it"
    )


class _Part(NamedTuple):
    """A patch of a tile, and the rectangle of the slide that it stands for."""

    patch: np.ndarray  # uint8, (size, size, 3)
    offset: np.ndarray  # (2,), x and y of the patch in the tile
    tissue_fraction: float
    corner: np.ndarray  # (2,), x and y in the slide of the rectangle
    size: np.ndarray | tuple[int, int]  # its width and height


def _cut_tile(tile: Tile, mask: np.ndarray, size: int, min_tissue: float) -> list[_Part]:
    """Cut a tile that is at least as large as a patch. If it is one patch, this stands for the whole tile.

    Args:
        mask: bool, (height, width), the pixels with tissue.

    Returns:
        If there are several patches, only those with tissue, but at least one.
    """
    parts = []
    offsets = patch_corners(tile.pixels.shape, size)
    for offset in offsets:
        x, y = offset
        window = slice(y, y + size), slice(x, x + size)
        corner, part_size = (tile.corner, tile.size) if len(offsets) == 1 else (tile.corner + offset, (size, size))
        parts.append(_Part(tile.pixels[window], offset, mask[window].mean(), corner, part_size))
    if len(parts) == 1:
        return parts
    return [part for part in parts if part.tissue_fraction >= min_tissue] or parts[:1]


def _estimate_background(tiles: list[Tile]) -> np.ndarray:
    """Estimate the color of empty glass, float32, (3,), from a sample of a slide's tiles, cut to the same width."""
    sample = tiles[:: max(1, len(tiles) // NUM_BACKGROUND_TILES)]
    width = min(tile.pixels.shape[1] for tile in sample)
    return estimate_background(np.concatenate([tile.pixels[:, :width] for tile in sample]))
