"""Write a classifier as SavedModel, LiteRT, ONNX or for WSInfer, and compare each file with the Keras network.

Every file but WSInfer's maps float32 patches in [0, 1], (n, size, size, 3), to a logit, (n, 1). A file counts as
faithful if no probability differs by more than MAX_DEVIATION on the patches that it is checked with.
"""

import contextlib
import io
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from bcgan import progress
from bcgan.classify.calibration import from_outputs
from bcgan.errors import InputError
from bcgan.models import fast, weights
from bcgan.predict import hub, wsinfer
from bcgan.predict.engines import Runner, is_installed, make_litert_runner, make_openvino_runner
from bcgan.predict.model import Model

# The name classifier.tflite is taken: that file belongs to the export, and the card has its hash.
FORMAT_FILES = {
    "savedmodel": "savedmodel",
    "litert": "classifier-float32.tflite",
    "litert-int8": "classifier-int8.tflite",
    "onnx": "classifier.onnx",
    "wsinfer": "wsinfer",
    "hub": hub.FOLDER,
}
TABLE = "formats.csv"
MAX_DEVIATION = 0.01
NUM_CALIBRATION_PATCHES = 128  # from which the ranges of int8 are estimated
REPEATS = 5
ONNX_PACKAGES = "pip install -r requirements-bench.txt"


def write_all(
    model: Model, kinds: tuple[str, ...], patches: np.ndarray, folder: Path, license_name: str
) -> pd.DataFrame:
    """Write the classifier in other formats: keys of FORMAT_FILES; for arguments, result and errors see `write`.

    Args:
        license_name: For the model hub: an SPDX identifier, or the address of a licence.
    """
    if "wsinfer" in kinds:
        wsinfer.check(model)
    if "hub" in kinds:
        hub.write(model, folder, license_name)
    tables = [write_wsinfer(model, patches, folder)] if "wsinfer" in kinds else []
    network_kinds = tuple(kind for kind in kinds if kind not in ("wsinfer", "hub"))
    if network_kinds:
        tables.append(write(model.network, network_kinds, patches, folder))
        changed = [
            f"preprocess.{name}={value}" for name, value in model.card.enhancement if value not in (False, "none")
        ]
        if changed:
            progress.log.warning(
                "export: the exported networks expect enhanced patches (%s). bcgan predict enhances them; elsewhere "
                "do it before you call the network", " ".join(changed),
            )  # fmt: skip
    return pd.concat(tables) if tables else pd.DataFrame()


def write(network: keras.Model, kinds: tuple[str, ...], patches: np.ndarray, folder: Path) -> pd.DataFrame:
    """Write the network in other formats, run each file, and compare it with the network.

    Args:
        network: Maps float32 patches in [0, 1] to a logit.
        kinds: Keys of FORMAT_FILES, but for `wsinfer` and `hub`.
        patches: uint8, (n, size, size, 3). For the ranges of int8 and for the comparison.
        folder: Created if missing; files of the same names are replaced.

    Returns:
        One row for each format: format, file, mebibytes, milliseconds_a_patch (of `patches` at once),
        largest_difference of a probability, faithful.

    Raises:
        InputError: If the packages for ONNX are not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected, rows = read_keras(weights.cast_to_float32(network))(patches), []
    for kind in kinds:
        path = folder / FORMAT_FILES[kind]
        if kind == "onnx":
            write_onnx(network, path)
            run = read_onnx(path)
        elif kind == "savedmodel":
            _to_exportable(network).export(path, verbose=False)
            run = read_savedmodel(path)
        else:
            write_litert(network, path, patches[:NUM_CALIBRATION_PATCHES] if kind == "litert-int8" else None)
            run = read_litert(path)
        rows.append(_format_row(kind, path, run(patches) - expected, _median_seconds(run, patches) / len(patches)))
    return pd.DataFrame(rows)


def write_wsinfer(model: Model, patches: np.ndarray, folder: Path) -> pd.DataFrame:
    """Write the classifier for WSInfer and QuPath, with all orientations and verdicts, and compare it with the model.

    Returns:
        One row, with the columns of `write`.

    Raises:
        InputError, WorkError: As `wsinfer.write` does.
    """
    path = folder / FORMAT_FILES["wsinfer"]
    probabilities, seconds = wsinfer.write(model, patches, path)
    differences = probabilities - wsinfer.expected_probabilities(model, patches)
    return pd.DataFrame([_format_row("wsinfer", path, differences, seconds)])


def _format_row(kind: str, path: Path, differences: np.ndarray, seconds: float) -> dict[str, Any]:
    """Return a format's row: see `write`; `differences` are of probabilities, `seconds` for one patch."""
    largest = float(np.abs(differences).max())
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {
        "format": kind, "file": path.name, "mebibytes": sum(file.stat().st_size for file in files) / 2**20,
        "milliseconds_a_patch": 1000 * seconds, "largest_difference": largest, "faithful": largest <= MAX_DEVIATION,
    }  # fmt: skip


def write_litert(network: keras.Model, path: Path, sample: np.ndarray | None = None, half: bool = False) -> None:
    """Write a .tflite file.

    Args:
        sample: uint8 patches. If given, weights and feature maps are quantized to int8, with ranges from these patches.
        half: Whether weights, not feature maps, are stored in float16.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(_to_exportable(network))
    if sample is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([patch[None]] for patch in _to_float(sample))
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    with contextlib.redirect_stdout(io.StringIO()):  # a page of tensors
        path.write_bytes(converter.convert())


def write_onnx(network: keras.Model, path: Path) -> None:
    """Write an .onnx file.

    Raises:
        InputError: If its packages are not installed.
    """
    try:
        import onnx  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX needs the package {error.name}. Run: {ONNX_PACKAGES}") from error
    _to_exportable(network).export(path, format="onnx", verbose=False)


def read_keras(network: keras.Model) -> Runner:
    """Return a function from uint8 patches to probabilities by the Keras network."""
    run = tf.function(lambda images: network(images, training=False), autograph=False)
    return lambda images: from_outputs(run(tf.constant(_to_float(images))).numpy())


def read_savedmodel(path: Path) -> Runner:
    """Return a function from uint8 patches to probabilities by a SavedModel."""
    loaded = tf.saved_model.load(path)  # the closure keeps it alive: its variables would be freed with it
    return lambda images: from_outputs(loaded.serve(tf.constant(_to_float(images))).numpy())


def read_litert(path: Path) -> Runner:
    """Return a function from uint8 patches to probabilities by LiteRT on all cores.

    Raises:
        InputError: If LiteRT is not installed.
    """
    if not is_installed("litert"):
        raise InputError("LiteRT's files are checked with the package ai_edge_litert. Run: pip install ai-edge-litert")
    run = make_litert_runner(path)
    return lambda images: from_outputs(run(images))


def read_openvino(path: Path, precision: str) -> Runner:
    """Return a function from uint8 patches to probabilities by OpenVINO on all cores, from a .tflite file.

    Args:
        precision: Of multiplications: "f32" or, less exactly, "bf16".
    """
    run = make_openvino_runner(path, precision)
    return lambda images: from_outputs(run(images))


def read_onnx(path: Path) -> Runner:
    """Return a function from uint8 patches to probabilities by ONNX Runtime on all cores.

    Raises:
        InputError: If ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"ONNX needs the package {error.name}. Run: {ONNX_PACKAGES}") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: from_outputs(session.run(None, {name: _to_float(images)})[0])


def _to_exportable(network: keras.Model) -> keras.Model:
    """Return the fused model in float32, built the same way on machines with and without a GPU."""
    fused = fast.fuse_model(weights.cast_to_float32(network), concat_inputs=False)
    fused(np.zeros((1, *network.input_shape[1:]), np.float32))  # Keras's exporter needs a model that was called
    return fused


def _to_float(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 255


def _median_seconds(run: Runner, patches: np.ndarray) -> float:
    """Return the median time of REPEATS runs on all patches, seconds."""
    times = []
    for _ in range(REPEATS):
        start_time = time.perf_counter()
        run(patches)
        times.append(time.perf_counter() - start_time)
    return float(np.median(times))
