"""The interface of an open image of any format: a pyramid of levels that is read in regions."""

import numpy as np

from bcgan.slides.scale import Mpp


class SlideImage:
    """An open image; a flat one is a pyramid of one level. Use it in a `with` statement.

    Attributes:
        name: For messages.
        sizes: (width, height) of every level, pixels, the largest first.
        mpp: Microns per pixel of the first level, as the file states it. `None` if it does not.
        block: (width, height) that should be read at once for speed, pixels of a level.
        has_parallel_reads: Whether several threads may call `read_region` at once.
    """

    has_parallel_reads = False

    def __init__(self, name: str, sizes: list[tuple[int, int]], mpp: Mpp | None, block: tuple[int, int]):
        self.name, self.sizes, self.mpp, self.block = name, sizes, mpp, block

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height) of the first level, pixels."""
        return self.sizes[0]

    def downsample(self, level: int) -> tuple[float, float]:
        """Return how many pixels of the first level are one pixel of this level, along x and y."""
        return self.size[0] / self.sizes[level][0], self.size[1] / self.sizes[level][1]

    def read_region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region.

        Args:
            level: Index into `sizes`.
            x, y, width, height: Of the region, which has to lie inside the level, pixels of that level.

        Returns:
            uint8 RGB, (height, width, 3); white where nothing was scanned.

        Raises:
            ValueError, OSError: If the file is damaged.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> "SlideImage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
