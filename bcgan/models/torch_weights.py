"""Read tensors from an old-style `.pth` file without PyTorch, and without executing code from the file.

Such a file is a pickle. Only ordered dictionaries and float or integer tensors are accepted.
"""

import collections
import hashlib
import pickle
from pathlib import Path

import numpy as np

from bcgan.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def read_tensors(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Read the tensors of a file by name, as float32 or int64 arrays.

    Raises:
        InputError: If the file has another SHA-256 than the published one, or contains anything but tensors.
    """
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise InputError(f"{path} is not the published file (its SHA-256 differs). Install its package again.")
    with path.open("rb") as file:
        try:
            if _Tensors(file).load() != MAGIC:
                raise pickle.UnpicklingError("not PyTorch's magic number")
            _, _ = _Tensors(file).load(), _Tensors(file).load()  # protocol, sizes of the writer's types
            tensors, keys = _Tensors(file).load(), _Tensors(file).load()
        except (pickle.UnpicklingError, EOFError, AttributeError) as error:
            raise InputError(
                f"{path} contains more than tensors ({error}); it is not read. Install its package again."
            ) from error
        dtypes = {tensor.key: tensor.dtype for tensor in tensors.values()}
        storages = {}
        for key in keys:
            count = int(np.frombuffer(file.read(8), "<i8")[0])
            storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    return {name: tensor.to_array(storages[tensor.key]) for name, tensor in tensors.items()}


class _Tensor(collections.namedtuple("_Tensor", ["dtype", "key", "offset", "shape", "strides"])):
    """The position of a tensor in its storage.

    Attributes:
        dtype: Of the storage.
        key: Of the storage.
        offset, strides: In values of the storage, as PyTorch has them.
        shape: Of the tensor.
    """

    def to_array(self, storage: np.ndarray) -> np.ndarray:
        """Copy the tensor from its storage.

        Raises:
            InputError: If it exceeds the storage.
        """
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if min(self.shape, default=1) < 1 or not 0 <= self.offset <= last < len(storage):
            raise InputError(
                f"A tensor of shape {self.shape} is larger than its data; the weights are damaged. Install their "
                "package again."
            )
        strides = [stride * storage.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides).copy()


class _Tensors(pickle.Unpickler):
    """An unpickler that builds `_Tensor`s and refuses all other classes."""

    def find_class(self, module: str, name: str):
        """Return what stands for a class that the pickle names; refuse all but a tensor's classes."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(*storage, offset, shape, strides)
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, identity: tuple):
        """Return the dtype and the key of a storage, which the pickle names as ("storage", class, key, ...)."""
        _, kind, key, *_ = identity
        return DTYPES[kind], key
