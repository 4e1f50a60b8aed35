"""A classifier for other runtimes: SavedModel, LiteRT and ONNX, each compared with the Keras network it comes from.

Every file maps float32 patches in [0, 1], (n, size, size, 3), to a logit, (n, 1). A file counts as faithful where no
probability differs by more than FAITHFUL on the patches that it is checked with.
"""

import contextlib
import io
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from scipy.special import expit

from bcgan.errors import InputError
from bcgan.models import fast, weights
from bcgan.predict.engines import Runner, installed, litert, openvino

# classifier.tflite is the export's own, whose hash its card holds.
KINDS = {"savedmodel": "savedmodel", "litert": "classifier-float32.tflite", "litert-int8": "classifier-int8.tflite",
         "onnx": "classifier.onnx"}  # fmt: skip
TABLE = "formats.csv"
FAITHFUL = 0.01
SAMPLE = 128  # patches from which the ranges of int8 are read
REPEATS = 5
ONNX_PACKAGES = "pip install -r requirements-bench.txt"


def write(network: keras.Model, kinds: tuple[str, ...], patches: np.ndarray, folder: Path) -> pd.DataFrame:
    """Write the network in other formats, run each file, and say how far it is from the network.

    Args:
        network: keras.Model. float32 in [0, 1] to a logit.
        kinds: tuple of strings. Of KINDS.
        patches: uint8, (n, size, size, 3). For int8's ranges and for the check.
        folder: Path. Made where it is missing; what is there under the same names is replaced.

    Returns:
        A row a format: format, file, mebibytes, milliseconds_a_patch (of `patches` at once), largest_difference of a
        probability, faithful.

    Raises:
        InputError: ONNX's packages are not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected, rows = read_keras(weights.in_float32(network))(patches), []
    for kind in kinds:
        path = folder / KINDS[kind]
        if kind == "onnx":
            write_onnx(network, path)
            run = read_onnx(path)
        elif kind == "savedmodel":
            _plain(network).export(path, verbose=False)
            run = read_savedmodel(path)
        else:
            write_litert(network, path, patches[:SAMPLE] if kind == "litert-int8" else None)
            run = read_litert(path)
        difference = float(np.abs(run(patches) - expected).max())
        files = path.rglob("*") if path.is_dir() else [path]
        rows.append({
            "format": kind, "file": path.name, "mebibytes": sum(f.stat().st_size for f in files if f.is_file()) / 2**20,
            "milliseconds_a_patch": 1000 * _seconds(run, patches) / len(patches),
            "largest_difference": difference, "faithful": difference <= FAITHFUL,
        })  # fmt: skip
    return pd.DataFrame(rows)


def write_litert(network: keras.Model, path: Path, sample: np.ndarray | None = None, half: bool = False) -> None:
    """Write a .tflite file; weights and maps in int8 where `sample`, uint8 patches, shows their ranges; weights, not
    maps, in float16 where `half` is set."""
    converter = tf.lite.TFLiteConverter.from_keras_model(_plain(network))
    if sample is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([patch[None]] for patch in _scaled(sample))
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    with contextlib.redirect_stdout(io.StringIO()):  # a page of tensors
        path.write_bytes(converter.convert())


def write_onnx(network: keras.Model, path: Path) -> None:
    """Write an .onnx file.

    Raises:
        InputError: its packages are not installed.
    """
    try:
        import onnx  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX needs the package {error.name}. Run: {ONNX_PACKAGES}") from error
    _plain(network).export(path, format="onnx", verbose=False)


def read_keras(network: keras.Model) -> Runner:
    run = tf.function(lambda images: network(images, training=False))
    return lambda images: expit(run(tf.constant(_scaled(images))).numpy()[:, 0])


def read_savedmodel(path: Path) -> Runner:
    loaded = tf.saved_model.load(path)  # kept by the function below: the variables are its own
    return lambda images: expit(loaded.serve(tf.constant(_scaled(images))).numpy()[:, 0])


def read_litert(path: Path) -> Runner:
    """LiteRT on every core.

    Raises:
        InputError: it is not installed.
    """
    if not installed("litert"):
        raise InputError("LiteRT's files are checked with the package ai_edge_litert. Run: pip install ai-edge-litert")
    run = litert(path)
    return lambda images: expit(run(images)[:, 0])


def read_openvino(path: Path, precision: str) -> Runner:
    """OpenVINO on every core, from LiteRT's file; precision as `bcgan.predict.engines.openvino` takes it."""
    run = openvino(path, precision)
    return lambda images: expit(run(images)[:, 0])


def read_onnx(path: Path) -> Runner:
    """ONNX Runtime on every core."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"ONNX needs the package {error.name}. Run: {ONNX_PACKAGES}") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: expit(session.run(None, {name: _scaled(images)})[0][:, 0])


def _plain(network: keras.Model) -> keras.Model:
    fused = fast.fuse_model(weights.in_float32(network), concat_inputs=False)  # wherever the file is made
    fused(np.zeros((1, *network.input_shape[1:]), np.float32))  # Keras's exporter wants a model that was called
    return fused


def _scaled(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 255


def _seconds(run: Runner, patches: np.ndarray) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run(patches)
        times.append(time.perf_counter() - began)
    return float(np.median(times))
