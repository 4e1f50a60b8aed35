"""Save and restore training checkpoints and models atomically, and maintain moving averages of weights."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from bcgan.errors import InputError, WorkError

Groups = dict[str, list[keras.Variable]]  # variables of models and optimizers, by name


def save(path: Path, step: int, groups: Groups) -> None:
    """Write a checkpoint: the step and the variables of every group. An earlier file is replaced when it is complete.

    Args:
        groups: Keras variables of models and optimizers, by name.

    Raises:
        WorkError: If a weight is NaN or infinite, or the file cannot be written; an earlier file is not changed.
    """
    arrays = {f"{name}/{i}": np.asarray(variable) for name, group in groups.items() for i, variable in enumerate(group)}
    _check_finite(path, arrays.values())
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez(file, step=np.int64(step), **arrays)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WorkError(f"{path} cannot be written ({error.strerror}). Free some space and run again.") from error


def _check_finite(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """Raise WorkError if a weight is NaN or infinite; `path` is the file that is then not written."""
    # NumPy has no bfloat16, hence the cast.
    if not all(np.isfinite(array.astype(np.float32)).all() for array in arrays):
        raise WorkError(
            f"{path} was not written: a weight is NaN or infinite. Lower the learning rates of that training, or set "
            "precision=float32; it resumes from its last checkpoint."
        )


def restore(path: Path, groups: Groups) -> int:
    """Read a checkpoint into the variables of `groups`, and return its step; 0 if there is no checkpoint.

    Raises:
        InputError: If the checkpoint is of other networks.
    """
    if not path.exists():
        return 0
    with np.load(path, allow_pickle=False) as saved:
        for name, variables in groups.items():
            for i, variable in enumerate(variables):
                key = f"{name}/{i}"
                if key not in saved or saved[key].shape != tuple(variable.shape):
                    raise InputError(
                        f"{path} has the weights of other networks (at {key}). Remove it, or run with --force."
                    )
                variable.assign(saved[key])
        return int(saved["step"])


def update_ema(average: list, current: list, decay: keras.KerasTensor | float) -> None:
    """Assign decay * average + (1 - decay) * current to every averaged variable, except integers (random states)."""
    for mean, variable in zip(average, current, strict=True):
        if keras.backend.is_float_dtype(mean.dtype):
            mean.value.assign_sub((1 - decay) * (mean.value - keras.ops.cast(variable, mean.dtype)))


def save_model(model: keras.Model, path: Path) -> None:
    """Write a `.keras` file atomically.

    Raises:
        WorkError: If a weight is NaN or infinite.
    """
    _check_finite(path, model.get_weights())
    part = path.with_name(path.stem + ".part.keras")
    model.save(part)
    part.replace(path)


def load_model(path: Path) -> keras.Model:
    """Read a `.keras` file in safe mode, which executes no code from the file.

    Raises:
        InputError: If it is no network, or cannot be read without executing its code.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path} is no network that can be read safely ({reason}). Use a file that bcgan wrote."
        ) from error


def save_float16(model: keras.Model, path: Path) -> None:
    """Write a compressed `.keras` file with float16 weights; apply `cast_to_float32` after reading it."""
    uncompressed = path.with_name(path.stem + ".whole.keras")
    save_model(_cast(model, "float16"), uncompressed)
    part = path.with_name(path.name + ".part")
    with (
        zipfile.ZipFile(uncompressed) as source,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
    ):
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    uncompressed.unlink()
    part.replace(path)


def cast_to_float32(model: keras.Model) -> keras.Model:
    """Return a copy of a network that computes in float32, so that its outputs are the same on every machine."""
    return _cast(model, "float32")


def _cast(model: keras.Model, dtype: str) -> keras.Model:
    """Return a copy of a model whose layers have this dtype, with the same weights; names lose leading underscores."""

    def clone(layer):
        config = layer.get_config()
        # A SavedModel cannot have variable names that begin with an underscore, as EfficientNet's do.
        changes = {"name": config["name"].lstrip("_")} | ({"dtype": dtype} if "dtype" in config else {})
        return layer.__class__.from_config(config | changes)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy
