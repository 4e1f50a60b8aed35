"""All that a training needs to go on: named groups of variables in one file, written at once; and moving averages."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from bcgan.errors import InputError, WorkError

Groups = dict[str, list]


def save(path: Path, step: int, groups: Groups) -> None:
    """Write every group's variables and the step. The file before it stays whole until the new one is.

    Args:
        groups: {name: variables}. Keras variables, of models and of optimizers alike.

    Raises:
        WorkError: a weight is NaN or infinite, or the disk is full or cannot be written; the last good file is left
            as it was.
    """
    arrays = {f"{name}/{i}": np.asarray(variable) for name, group in groups.items() for i, variable in enumerate(group)}
    _refuse_nonsense(path, arrays.values())
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez(file, step=np.int64(step), **arrays)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WorkError(f"{path} cannot be written ({error.strerror}). Free some space and run again.") from error


def _refuse_nonsense(path: Path, arrays: Iterable[np.ndarray]) -> None:
    # bfloat16 is no type of NumPy's own, hence the cast.
    if not all(np.isfinite(array.astype(np.float32)).all() for array in arrays):
        raise WorkError(
            f"{path} was not written: a weight is NaN or infinite. Lower the rates of that training, or set "
            "precision=float32; it resumes from its last checkpoint."
        )


def restore(path: Path, groups: Groups) -> int:
    """Fill every group's variables and give the step that they were saved at; 0 where there is no file.

    Raises:
        InputError: the file was written for other networks.
    """
    if not path.exists():
        return 0
    with np.load(path, allow_pickle=False) as saved:
        for name, group in groups.items():
            for i, variable in enumerate(group):
                key = f"{name}/{i}"
                if key not in saved or saved[key].shape != tuple(variable.shape):
                    raise InputError(
                        f"{path} holds other networks' weights (at {key}). Remove it, or run with --force."
                    )
                variable.assign(saved[key])
        return int(saved["step"])


def move_average(average: list, current: list, decay: keras.KerasTensor | float) -> None:
    """average := decay * average + (1 - decay) * current, variable by variable; random states (integers) are left."""
    for slow, fast in zip(average, current, strict=True):
        if keras.backend.is_float_dtype(slow.dtype):
            slow.assign(slow + (1 - decay) * (keras.ops.cast(fast, slow.dtype) - slow))


def save_model(model: keras.Model, path: Path) -> None:
    """Write `.keras` atomically; the file holds no code.

    Raises:
        WorkError: a weight is NaN or infinite.
    """
    _refuse_nonsense(path, model.get_weights())
    part = path.with_name(path.stem + ".part.keras")
    model.save(part)
    part.replace(path)


def load_model(path: Path) -> keras.Model:
    """Read `.keras` in safe mode: no code comes with it.

    Raises:
        InputError: it is no network, or one that can only be read by running code of its own.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError) as error:
        why = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path} is no network that can be read safely ({why}). Use a file that bcgan wrote."
        ) from error


def save_small(model: keras.Model, path: Path) -> None:
    """Write `.keras` with weights of half the size, compressed; `in_float32` what is read before it is used."""
    uncompressed = path.with_name(path.stem + ".whole.keras")
    save_model(_of_type(model, "float16"), uncompressed)
    part = path.with_name(path.name + ".part")
    with (
        zipfile.ZipFile(uncompressed) as source,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
    ):
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    uncompressed.unlink()
    part.replace(path)


def in_float32(model: keras.Model) -> keras.Model:
    """The same network, computing in float32 throughout: the same answers on every machine."""
    return _of_type(model, "float32")


def _of_type(model: keras.Model, dtype: str) -> keras.Model:
    def typed(layer):
        config = layer.get_config()
        # A SavedModel takes no variable whose name begins with an underscore, as EfficientNet's do.
        changes = {"name": config["name"].lstrip("_")} | ({"dtype": dtype} if "dtype" in config else {})
        return layer.__class__.from_config(config | changes)

    copy = keras.models.clone_model(model, clone_function=typed, recursive=True)
    copy.set_weights(model.get_weights())
    return copy
