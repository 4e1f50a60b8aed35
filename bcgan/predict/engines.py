"""Run an exported classifier with OpenVINO, LiteRT or Keras.

OpenVINO and LiteRT read the same .tflite files: the networks with batch normalization folded into the convolutions and
weights in half precision. `bcgan export` writes these files only if their predictions agree with those of Keras. They
start fast; on x86-64 processors OpenVINO is fastest, and LiteRT starts half a second sooner. Explanations and GPUs need
Keras.
"""

import platform
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bcgan import machine, renamed
from bcgan.classify.calibration import from_outputs

if TYPE_CHECKING:
    import keras

NETWORKS = ("classifier", "reference_cnn")  # <name>.keras and <name>.tflite in an exported folder
LITERT_FILES = tuple(f"{name}.tflite" for name in NETWORKS)
ENGINES = ("auto", "openvino", "litert", "keras")
BATCH = 64

Runner = Callable[[np.ndarray], np.ndarray]


class Runtime(NamedTuple):
    """A library that runs .tflite files: its name, the module to import and the package to install."""

    title: str
    module: str
    package: str


RUNTIMES = {
    "openvino": Runtime("OpenVINO", "openvino", "openvino"),
    "litert": Runtime("LiteRT", "ai_edge_litert", "ai-edge-litert"),
}


class Engine(NamedTuple):
    """The functions that run the networks of an exported folder.

    Attributes:
        name: "openvino", "litert" or "keras".
        score: Maps uint8 patches (n, size, size, 3) to probabilities, (n,) or (n, classes) of more than two classes.
        features: Maps uint8 patches of side `reference_cnn_size` to the input of the reference CNN's head, (n, d).
    """

    name: str
    score: Runner
    features: Runner


def select_engine(requested: str, folder: Path, files: dict[str, str], small_job: bool = False) -> Engine:
    """Return the engine that runs an exported folder.

    Args:
        requested: One of ENGINES. "auto" means `fastest_engine` if the folder has .tflite files, else Keras.
        files: The files that the card names, with their SHA-256.
        small_job: Whether so few patches are scored that "auto" should prefer the engine that starts fastest.

    Raises:
        ValueError: If the engine is unknown, its package is not installed, or the folder has no .tflite files for it.
    """
    if requested not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}. Received: engine={requested!r}")
    missing = [name for name in LITERT_FILES if name not in files]
    if requested in RUNTIMES and missing:
        raise ValueError(f"{folder} has no {missing[0]}; export it again, or use the engine keras")
    if requested in RUNTIMES and not is_installed(requested):
        title, _, package = RUNTIMES[requested]
        raise ValueError(f"{title} is not installed: pip install {package}, or use the engine keras")
    name = requested
    if requested == "auto":
        name = "keras" if missing else fastest_engine(small_job)
    if name == "keras":
        machine.prepare_environment(tensorflow=True)
        from bcgan.models import weights

        paths = [renamed.model_file(folder, f"{network}.keras") for network in NETWORKS]
        return keras_engine(*(weights.cast_to_float32(weights.load_model(path)) for path in paths))
    make_runner = {"openvino": make_openvino_runner, "litert": make_litert_runner}[name]
    logits, features = (make_runner(renamed.model_file(folder, file)) for file in LITERT_FILES)
    return Engine(name, lambda images: from_outputs(logits(images)), features)


def fastest_engine(small_job: bool = False) -> str:
    """Return the fastest engine installed: OpenVINO on x86-64, LiteRT elsewhere and for small jobs, else Keras."""
    has_openvino = is_installed("openvino") and platform.machine().lower() in ("x86_64", "amd64")
    if is_installed("litert") and (small_job or not has_openvino):
        return "litert"
    return "openvino" if has_openvino else "keras"


def is_installed(runtime: str) -> bool:
    """Return whether one of RUNTIMES can be imported here."""
    return find_spec(RUNTIMES[runtime].module) is not None


def keras_engine(network: "keras.Model", reference_cnn: "keras.Model") -> Engine:
    """Return an engine that runs a classifier, and the reference CNN of its quality filter, in Keras."""
    from bcgan.classify.reference_cnn import make_feature_fn
    from bcgan.classify.scoring import make_predict_fn

    return Engine("keras", make_predict_fn(network), make_feature_fn(reference_cnn))


def make_openvino_runner(path: Path, precision: str = "f32") -> Runner:
    """Return a function that runs a .tflite file with OpenVINO on all cores: uint8 patches to float32 outputs.

    Args:
        precision: Of multiplications: "f32" or, less exactly, "bf16".
    """
    # On import, OpenVINO would send telemetry and keep a file about it in the home folder.
    sys.modules.setdefault("openvino_telemetry", None)
    from openvino import Core

    options = {
        "INFERENCE_PRECISION_HINT": precision,  # the default is bfloat16 if the processor supports it
        "INFERENCE_NUM_THREADS": machine.processor()["cores"],
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits for other processes on its core
    }
    request = Core().compile_model(str(path), "CPU", options).create_infer_request()
    return _in_batches(lambda images: request.infer({0: images})[0])


def make_litert_runner(path: Path) -> Runner:
    """Return a function that runs a .tflite file with LiteRT on all cores: uint8 patches to float32 outputs."""
    from ai_edge_litert.interpreter import Interpreter

    with machine.suppress_loading_messages():
        interpreter = Interpreter(str(path), num_threads=machine.processor()["cores"])
        interpreter.allocate_tensors()
    (input_details,), (output_details,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: np.ndarray) -> np.ndarray:
        """Run the network on one batch, float32, (n, size, size, 3); the last batch may be smaller than the others."""
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(input_details["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(input_details["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(output_details["index"])

    return _in_batches(run)


def _in_batches(run: Runner) -> Runner:
    """Wrap a function of float32 patches in [0, 1] so that it takes any number of uint8 patches, (n, size, size, 3).

    The wrapped function calls `run` on batches of BATCH patches, only one thread at a time, and joins the results along
    their first axis.
    """
    lock = threading.Lock()

    def run_batch(images: np.ndarray) -> np.ndarray:
        with lock:
            return run(images.astype(np.float32) / 255)

    return lambda images: np.concatenate([run_batch(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])
