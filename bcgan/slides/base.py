"""What every image is, whatever its file: a pyramid of levels that is read in regions."""

import numpy as np

from bcgan.slides.scale import Mpp


class SlideImage:
    """An open image; a flat one is a pyramid of one level. Use it in a `with` statement.

    name: string, for messages. sizes: (width, height) of every level, pixels, the largest first. mpp: microns per pixel
    of the first level, as the file states it; None: it does not. block: (width, height) that is best read at once,
    pixels of a level.
    """

    def __init__(self, name: str, sizes: list[tuple[int, int]], mpp: Mpp | None, block: tuple[int, int]):
        self.name, self.sizes, self.mpp, self.block = name, sizes, mpp, block

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the first level, pixels."""
        return self.sizes[0]

    def downsample(self, level: int) -> tuple[float, float]:
        """Pixels of the first level for one of this level's, along x and y."""
        return self.size[0] / self.sizes[level][0], self.size[1] / self.sizes[level][1]

    def read_region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region.

        Args:
            level: int. Position in `sizes`.
            x, y, width, height: integers. Of the region, pixels of that level; it lies inside the level.

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
