"""Images that are read when they are used: rows of arrays in memory and of .npy files that may exceed the memory."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np


class NpyFile:
    """The rows of an array in a .npy file, read at their places in the file.

    Pages of a memory map count as memory of the process once they were read. These reads do not: the system keeps the
    file in its cache, and drops it when memory is short.
    """

    def __init__(self, path: Path):
        """Open the file and read its header; raise ValueError for an array in Fortran order or of Python objects."""
        self._file = path.open("rb", buffering=0)
        version = np.lib.format.read_magic(self._file)
        is_first = version == (1, 0)
        read_header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        self.shape, is_fortran_order, self.dtype = read_header(self._file)
        if is_fortran_order or self.dtype.hasobject:
            raise ValueError(f"{path} is no array of images in the order of rows.")
        self._start = self._file.tell()
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._map = None if hasattr(os, "pread") else np.load(path, mmap_mode="r")  # Windows has no pread

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Read rows, given as integers, (n,); neighbors in the file are read together."""
        if self._map is not None:
            return self._map[rows]
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        flat = memoryview(out.reshape(-1).view(np.uint8))
        ends = np.append(np.flatnonzero(np.diff(rows) != 1) + 1, len(rows)) if len(rows) else []
        start = 0
        for end in ends:
            target = flat[start * self._row_bytes : end * self._row_bytes]
            self._read_into(target, self._start + int(rows[start]) * self._row_bytes)
            start = end
        return out

    def _read_into(self, target: memoryview, position: int) -> None:
        """Fill `target` with the bytes from `position` on; raise OSError if the file ends before."""
        done = 0
        while done < len(target):  # one call reads 2 GiB at most
            chunk = os.pread(self._file.fileno(), min(len(target) - done, 2**30), position + done)
            if not chunk:
                raise OSError(f"{self._file.name} ends too early. Run the stage that wrote it again (--force).")
            target[done : done + len(chunk)] = chunk
            done += len(chunk)


class ImageRows:
    """Rows of one or more arrays of images of one size, read when they are indexed.

    Indexing with an integer, a slice, a mask or integers returns an array, as indexing an array does. `select`,
    `center_crop` and `concatenate` read nothing.

    Attributes:
        shape: (n, size, size, 3).
        dtype: Of the images.
    """

    def __init__(self, source: Any, rows: np.ndarray | None = None):
        """Refer to rows of an array or an `NpyFile`; all of them by default."""
        self._sources = [source]
        self._row_of = np.arange(len(source)) if rows is None else np.arange(len(source))[rows]
        self._source_of: np.ndarray | None = None  # index of each row's source, if there are several
        self._crop: int | None = None
        self._size = source.shape[1:]
        self.dtype = source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape that the images have as an array."""
        return (len(self._row_of), *((self._crop, self._crop) if self._crop else self._size[:2]), *self._size[2:])

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._row_of)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Iterate over the images."""
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all images."""
        return self[:].astype(dtype, copy=False) if dtype else self[:]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read images."""
        if isinstance(index, (int, np.integer)):
            return self[np.array([range(len(self))[index]])][0]
        chosen = np.arange(len(self))[index]
        rows = self._row_of[chosen]
        if self._source_of is None:
            images = np.asarray(self._sources[0][rows])
        else:
            # One read for each source; the rows keep the order of the index.
            images, source_of = np.empty((len(rows), *self._size), self.dtype), self._source_of[chosen]
            for number in np.unique(source_of):
                is_part = source_of == number
                images[is_part] = self._sources[number][rows[is_part]]
        if self._crop:
            top, left = ((side - self._crop) // 2 for side in self._size[:2])
            images = images[:, top : top + self._crop, left : left + self._crop]
        return images

    def select(self, rows: np.ndarray) -> Self:
        """Return some of the images, by a mask or by integers."""
        selected = self._copy()
        selected._row_of = self._row_of[rows]
        selected._source_of = None if self._source_of is None else self._source_of[rows]
        return selected

    def center_crop(self, crop: int) -> Self:
        """Return the central square of each image."""
        cropped = self._copy()
        cropped._crop = crop
        return cropped

    def _copy(self) -> Self:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    @classmethod
    def concatenate(cls, parts: Iterable[Any]) -> Self:
        """Return the images of several arrays or `ImageRows`, one after the other.

        Cropped `ImageRows` are read into memory; the others are only referred to.
        """
        parts = [part if isinstance(part, cls) and not part._crop else cls(np.asarray(part)) for part in parts]
        joined = parts[0]._copy()
        joined._sources = [source for part in parts for source in part._sources]
        joined._row_of = np.concatenate([part._row_of for part in parts])
        source_of, first_source = [], 0
        for part in parts:
            indices = np.zeros(len(part), int) if part._source_of is None else part._source_of
            source_of.append(indices + first_source)
            first_source += len(part._sources)
        joined._source_of = np.concatenate(source_of)
        return joined


class NpyWriter:
    """A .npy file that grows row by row; `close` writes how many there are."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: type):
        self._file = path.open("wb")
        self._row_shape, self._dtype = row_shape, np.dtype(dtype)
        self._count = 0
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Write rows, (n, *row_shape).

        Raises:
            OSError: If the disk is full.
        """
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._count += len(rows)

    def close(self) -> None:
        """Complete the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # NumPy pads a header so that the first dimension may grow without a longer header.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
