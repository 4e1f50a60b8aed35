"""Resample an image to the model's scale and cut it into patches, in the same way for every format."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bcgan import progress
from bcgan.sizes import MIN_TISSUE_FRACTION
from bcgan.slides.areas import divide_area
from bcgan.slides.base import SlideImage
from bcgan.slides.decode import MAX_PIXELS
from bcgan.slides.files import ImageFile
from bcgan.slides.reader import open_image
from bcgan.slides.scale import MAX_ENLARGEMENT, SINGLE_PATCH_MAX_RATIO, ModelScale, Mpp, Scale, resolve_scale
from bcgan.slides.tissue import fill_unscanned, tissue_mask

MIN_BLOCKS_FOR_PROGRESS = 4  # from which on reading has a progress bar
MAX_READERS = 8  # threads; a block takes 50 MB while it is read
ROUNDING = 1e-6  # pixels
CUBIC = -0.75  # the coefficient of OpenCV's cubic interpolation


class PatchGrid(NamedTuple):
    """The patches of one image that contain tissue.

    Attributes:
        patches: uint8, (n, size, size, 3).
        coords: Integers, (n, 2), x and y of the upper left corners, pixels at the model's scale.
        scale: Pixels of the image for one of the model's, and where the resolution comes from.
        tissue: bool, (n, size, size), which pixels are tissue.
        thumbnail: uint8, (height, width, 3), for display.
        thumbnail_scale: Pixels of the thumbnail for one of the model's.
        is_single_patch: Whether the image is one patch.
        tile_px: Side of the square that each patch stands for, pixels at the model's scale.
    """

    patches: np.ndarray
    coords: np.ndarray
    scale: Scale
    tissue: np.ndarray
    thumbnail: np.ndarray
    thumbnail_scale: float
    is_single_patch: bool
    tile_px: float

    @property
    def image_coords(self) -> np.ndarray:
        """Return x and y of the patches in pixels of the image, integers, (n, 2)."""
        return np.rint(self.coords * (self.scale.x, self.scale.y)).astype(int)

    @property
    def areas(self) -> np.ndarray:
        """Return the area that each patch stands for, square pixels at the model's scale, float (n,).

        It is that of the image if this is one patch, and else of the patch without what the others have of it.
        """
        if self.is_single_patch:
            height, width = self.thumbnail.shape[:2]
            return np.full(len(self.coords), height * width / self.thumbnail_scale**2)
        return divide_area(self.coords, np.full_like(self.coords, self.patches.shape[1]))


def cut_patches(
    image: SlideImage,
    model: ModelScale,
    mpp: Mpp | None = None,
    stride: int | None = None,
    min_tissue: float = MIN_TISSUE_FRACTION,
) -> PatchGrid:
    """Resample an image to the model's scale, and cut it into the patches that contain tissue.

    The grid begins at the upper left corner; its last column and row end where the image ends, so that nothing is
    padded. An image of at most SINGLE_PATCH_MAX_RATIO patches per side is one patch, its center.

    Args:
        model: Side of a patch, and its microns per pixel.
        mpp: Resolution of the image. Defaults to what the file states.
        stride: From patch to patch, pixels at the model's scale. Defaults to `None`: the side of a patch.
        min_tissue: Least fraction of a patch that is tissue. Defaults to MIN_TISSUE_FRACTION.

    Raises:
        ValueError: If the image's scale is not known or cannot be true, or if the image is smaller than a patch or too
            large at the model's scale.
    """
    scale = resolve_scale(image.size, mpp or image.mpp, model, image.name)
    size = model.size
    _check_patch_size(image, scale, size)
    pixels = fill_unscanned(read_at_scale(image, scale))
    mask = tissue_mask(pixels)
    corners = patch_corners(pixels.shape, size, scale.is_single_patch, stride)
    tissue_fraction = np.array([mask[y : y + size, x : x + size].mean() for x, y in corners])
    corners = corners[tissue_fraction >= min_tissue]
    patches = np.empty((len(corners), size, size, 3), np.uint8)
    tissue = np.empty((len(corners), size, size), bool)
    for index, (x, y) in enumerate(corners):
        window = slice(y, y + size), slice(x, x + size)
        patches[index], tissue[index] = pixels[window], mask[window]
    return PatchGrid(patches, corners, scale, tissue, pixels, 1.0, scale.is_single_patch, size)


def read_patch(source: ImageFile | Path | str | bytes, model: ModelScale, mpp: Mpp | None = None) -> np.ndarray:
    """Read an image that is one patch; uint8, (size, size, 3). Arguments and errors as of `read_one_patch`."""
    return read_one_patch(source, model, mpp).patches[0]


def read_one_patch(source: ImageFile | Path | str | bytes, model: ModelScale, mpp: Mpp | None = None) -> PatchGrid:
    """Read an image that is one patch as `cut_patches` does, with or without tissue.

    Args:
        model, mpp: As `cut_patches` takes them.

    Raises:
        ValueError, OSError: If it is larger than a patch or cannot be read.
    """
    with open_image(source) as image:
        scale = resolve_scale(image.size, mpp or image.mpp, model, image.name)
        if not scale.is_single_patch:
            width, height = (round(model.size * step) for step in (scale.x, scale.y))
            raise ValueError(
                f"{image.name} has {image.size[0]}x{image.size[1]} pixels, and a patch {width}x{height}. Check its "
                "microns per pixel, cut it, or use bcgan predict"
            )
        return cut_patches(image, model, mpp, min_tissue=0.0)


def _scaled_size(image: SlideImage, scale: Scale) -> tuple[int, int]:
    """Return (width, height) of an image at the model's scale, pixels."""
    width, height = (max(1, round(side / step)) for side, step in zip(image.size, (scale.x, scale.y), strict=True))
    return width, height


def _check_patch_size(image: SlideImage, scale: Scale, size: int) -> None:
    """Check that an image, which need not be read for this, has at least `size` pixels a side at the model's scale.

    Raises:
        ValueError: If a side is shorter than that of a patch.
    """
    width, height = _scaled_size(image, scale)
    if min(height, width) < size:
        resolution = f"at {scale.mpp[0]:.4g} microns a pixel ({scale.source}) " if scale.mpp else ""
        raise ValueError(
            f"{image.name} is smaller than a patch: {image.size[0]}x{image.size[1]} pixels {resolution}are "
            f"{width}x{height} at the model's scale, and a patch has {size}x{size}. Check its microns per pixel, or "
            "give larger images"
        )


def patch_corners(
    shape: tuple[int, ...], size: int, is_single_patch: bool | None = None, stride: int | None = None
) -> np.ndarray:
    """Return the upper left corners of the patches of an image: x and y, integers, (n, 2), pixels of that image.

    Args:
        shape: (height, width, ...) of the image.
        size: Side of a patch, pixels.
        is_single_patch: Whether the image is one patch, its center. Defaults to whether it is at most
            SINGLE_PATCH_MAX_RATIO patches per side.
        stride: From patch to patch, pixels. Defaults to `None`: the side of a patch.
    """
    height, width = shape[:2]
    if is_single_patch is None:
        is_single_patch = max(height, width) <= SINGLE_PATCH_MAX_RATIO * size
    if is_single_patch:
        return np.array([[(width - size) // 2, (height - size) // 2]])
    columns, rows = (_patch_starts(side, size, stride or size) for side in (width, height))
    return np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)


def read_at_scale(image: SlideImage, scale: Scale) -> np.ndarray:
    """Read a complete image at the model's scale, block by block, from the next finer level of its pyramid.

    Returns:
        uint8, (height, width, 3).

    Raises:
        ValueError: If the result is larger than MAX_PIXELS.
    """
    width, height = _scaled_size(image, scale)
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{image.name} has {width}x{height} pixels at the model's scale, more than {MAX_PIXELS:,}. Check its "
            "microns per pixel, or cut it"
        )
    if min(scale.x, scale.y) * MAX_ENLARGEMENT < 0.99:
        raise ValueError(f"{image.name} would be enlarged {1 / min(scale.x, scale.y):.0f} times. Check its --mpp")
    level = _select_level(image, scale)
    step_x, step_y = (step / down for step, down in zip((scale.x, scale.y), image.downsample(level), strict=True))
    columns, rows = (max(1, int(side / step)) for side, step in zip(image.block, (step_x, step_y), strict=True))
    corners = [(top, left) for top in range(0, height, rows) for left in range(0, width, columns)]
    pixels = np.empty((height, width, 3), np.uint8)

    def fill_block(corner: tuple[int, int]) -> None:
        """Read the block at (top, left), pixels at the model's scale, into `pixels`."""
        top, left = corner
        bottom, right = min(height, top + rows), min(width, left + columns)
        pixels[top:bottom, left:right] = _read_block(image, level, (step_x, step_y), (left, top, right, bottom))

    with progress.bar(len(corners), image.name, "block", visible=len(corners) >= MIN_BLOCKS_FOR_PROGRESS) as bar:
        for _ in _map_in_threads(fill_block, corners, image.has_parallel_reads):
            bar.update()
    return pixels


def _map_in_threads(work: Callable[[tuple[int, int]], None], items: list, has_threads: bool) -> Iterator[None]:
    """Apply `work` to every item, in threads if there are several items and threads are allowed.

    Yields:
        The result of each item (`None`), in order, so that the caller can count finished ones.
    """
    if not has_threads or len(items) == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(min(MAX_READERS, os.cpu_count() or 1)) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:  # a damaged block or Ctrl-C: the blocks that wait are not read
            pool.shutdown(cancel_futures=True)
            raise


def _select_level(image: SlideImage, scale: Scale) -> int:
    """Return the coarsest level of the pyramid that is at least as fine as the scale; the first if none is."""
    levels = range(len(image.sizes))
    fine_levels = [level for level in levels if max(np.divide(image.downsample(level), (scale.x, scale.y))) <= 1.01]
    return max(fine_levels, key=lambda level: image.downsample(level)[0], default=0)


def _read_block(
    image: SlideImage, level: int, steps: tuple[float, float], block: tuple[int, int, int, int]
) -> np.ndarray:
    """Read one block at the model's scale.

    Args:
        steps: Pixels of the level for one of the model's, along x and y.
        block: left, top, right, bottom, pixels at the model's scale.

    Returns:
        uint8, (bottom - top, right - left, 3).
    """
    left, top, right, bottom = block
    axes = [_Axis(*limits) for limits in zip(steps, (left, top), (right, bottom), image.sizes[level], strict=True)]
    across, down = axes
    region = image.read_region(level, across.start, down.start, across.length, down.length)
    if across.is_copy and down.is_copy:
        return region
    if across.is_whole and down.is_whole:
        return cv2.resize(region, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    height, width = region.shape[:2]
    # Interpolation is separable: resample along y, then along x, each as a product with a sparse matrix.
    rows = down.weights() @ region.reshape(height, width * 3).astype(np.float32)
    transposed = np.ascontiguousarray(rows.reshape(-1, width, 3).swapaxes(0, 1)).reshape(width, -1)
    result = (across.weights() @ transposed).reshape(right - left, bottom - top, 3).swapaxes(0, 1)
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


class _Axis:
    """Resampling along one axis: area means if the image shrinks, cubic interpolation if it is enlarged.

    Attributes:
        start, length: Range of the level's pixels that are read.
        is_whole: Whether each pixel of the result is the mean of a whole number of pixels.
        is_copy: Whether each pixel of the result is one pixel.
    """

    def __init__(self, step: float, begin: int, end: int, size: int):
        """Find the range of pixels that a part of the result needs.

        Args:
            step: Pixels of the level for one of the result.
            begin, end: Range of the result's pixels.
            size: Pixels of the level along the axis.
        """
        self._step, self._begin, self._end = step, begin, end
        margin = 2 if step < 1 else 0  # cubic interpolation uses two pixels on either side
        self.start = max(0, min(size - 1, int(np.floor(begin * step + ROUNDING)) - margin))
        stop = min(size, int(np.ceil(end * step - ROUNDING)) + margin)
        self.length = max(1, stop - self.start)
        self.is_whole = float(step).is_integer() and self.length == (end - begin) * step
        self.is_copy = self.is_whole and step == 1

    def weights(self):
        """Return the weight of each pixel read for each pixel of the result: sparse float32, (end - begin, length)."""
        from scipy.sparse import csr_matrix

        outputs = np.arange(self._begin, self._end)[:, None]
        if self._step >= 1:  # the weight of a pixel is the length of its overlap with [first, last)
            first, last = outputs * self._step, (outputs + 1) * self._step
            sources = np.floor(first + ROUNDING).astype(int) + np.arange(int(np.ceil(self._step)) + 1)
            values = (np.minimum(last, sources + 1) - np.maximum(first, sources)).clip(0)
            values[sources >= self.start + self.length] = 0  # beyond the image's edge
        else:
            centres = (outputs + 0.5) * self._step - 0.5  # pixel i covers [i, i + 1), its center is at i + 0.5
            sources = np.floor(centres).astype(int) + np.arange(-1, 3)
            values = _cubic_weights(np.abs(centres - sources))
        values = (values / values.sum(1, keepdims=True)).astype(np.float32)
        columns = np.clip(sources - self.start, 0, self.length - 1)  # the edge is repeated
        rows = np.repeat(np.arange(len(outputs)), values.shape[1])
        return csr_matrix((values.ravel(), (rows, columns.ravel())), (len(outputs), self.length))


def _cubic_weights(distance: np.ndarray) -> np.ndarray:
    """Return the weights of cubic interpolation at distances in pixels; the same shape, 0 from 2 pixels on."""
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * distance**3 - 5 * CUBIC * distance**2 + 8 * CUBIC * distance - 4 * CUBIC
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _patch_starts(length: int, size: int, stride: int) -> np.ndarray:
    """Return where patches of `size` pixels begin along an axis, integers (n,); the last ends where the image ends."""
    starts = np.arange(0, length - size + 1, stride)
    return starts if starts[-1] + size == length else np.append(starts, length - size)
