"""What runs an exported classifier: OpenVINO or LiteRT, which start in a moment, or Keras, which explanations and GPUs
need.

OpenVINO and LiteRT read the same files. These hold the same networks with batch normalisation folded into the
convolutions and weights in half precision; `bcgan export` keeps them only where they say what Keras says. On x86-64
processors OpenVINO is fastest, and LiteRT starts half a second sooner.
"""

import platform
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from bcgan import machine, renamed

NETWORKS = ("classifier", "reference_cnn")  # <name>.keras and <name>.tflite in an exported folder
LITERT_FILES = tuple(f"{name}.tflite" for name in NETWORKS)
ENGINES = ("auto", "openvino", "litert", "keras")
BATCH = 64

Runner = Callable[[np.ndarray], np.ndarray]


class Runtime(NamedTuple):
    """What reads a .tflite file: its name, the module to import and the package that brings it."""

    title: str
    module: str
    package: str


RUNTIMES = {
    "openvino": Runtime("OpenVINO", "openvino", "openvino"),
    "litert": Runtime("LiteRT", "ai_edge_litert", "ai-edge-litert"),
}


class Engine(NamedTuple):
    """score: from uint8 patches (n, size, size, 3) to probabilities of malignancy, (n,). features: from uint8 patches
    at the GAN's size to the input of the reference CNN's head, (n, d)."""

    name: str
    score: Runner
    features: Runner


def choose(requested: str, folder: Path, files: dict[str, str], few: bool = False) -> Engine:
    """The engine for an exported folder.

    Args:
        requested: string. "openvino", "litert", "keras", or "auto": `quickest` where the folder holds .tflite files.
        files: dict. What the card names.
        few: bool. Whether few patches are to be scored, so that "auto" counts the start.

    Raises:
        ValueError: OpenVINO or LiteRT is wanted and cannot be had, or another engine is.
    """
    if requested not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}. Received: engine={requested!r}")
    missing = [name for name in LITERT_FILES if name not in files]
    if requested in RUNTIMES and missing:
        raise ValueError(f"{folder} holds no {missing[0]}; export it anew, or use the engine keras")
    if requested in RUNTIMES and not installed(requested):
        title, _, package = RUNTIMES[requested]
        raise ValueError(f"{title} is not installed: pip install {package}, or use the engine keras")
    name = requested if requested != "auto" else "keras" if missing else quickest(few)
    if name == "keras":
        machine.prepare_environment(tensorflow=True)
        from bcgan.models import weights

        paths = [renamed.model_file(folder, f"{name}.keras") for name in NETWORKS]
        return of_keras(*(weights.in_float32(weights.load_model(path)) for path in paths))
    read = {"openvino": openvino, "litert": litert}[name]
    score, features = (read(renamed.model_file(folder, file)) for file in LITERT_FILES)
    return Engine(name, lambda images: expit(score(images)[:, 0]), features)


def quickest(few: bool = False) -> str:
    """Of what is installed here: OpenVINO on x86-64 processors, LiteRT elsewhere and for a few patches, else Keras."""
    has_openvino = installed("openvino") and platform.machine().lower() in ("x86_64", "amd64")
    if installed("litert") and (few or not has_openvino):
        return "litert"
    return "openvino" if has_openvino else "keras"


def installed(runtime: str) -> bool:
    """Whether one of RUNTIMES can be imported here."""
    return find_spec(RUNTIMES[runtime].module) is not None


def of_keras(network, reference_cnn) -> Engine:
    """Return an engine that runs the classifier and the reference CNN in Keras."""
    from bcgan.classify.reference_cnn import make_feature_fn
    from bcgan.classify.scoring import scorer

    return Engine("keras", scorer(network), make_feature_fn(reference_cnn))


def openvino(path: Path, precision: str = "f32") -> Runner:
    """OpenVINO on every core: from uint8 patches to what the file gives, float32.

    Args:
        precision: string. In which it multiplies: "f32" or, less exactly, "bf16".
    """
    # On import it would tell its maker that it was imported, and keep a file about that in the home folder.
    sys.modules.setdefault("openvino_telemetry", None)
    from openvino import Core

    options = {
        "INFERENCE_PRECISION_HINT": precision,  # by itself it takes bfloat16 where the processor has it
        "INFERENCE_NUM_THREADS": machine.processor()["cores"],
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # a thread that may not leave its core waits for whatever else runs there
    }
    request = Core().compile_model(str(path), "CPU", options).create_infer_request()
    return _in_batches(lambda images: request.infer({0: images})[0])


def litert(path: Path) -> Runner:
    """LiteRT's interpreter on every core: from uint8 patches to what the file gives, float32."""
    from ai_edge_litert.interpreter import Interpreter

    with machine.quiet():
        interpreter = Interpreter(str(path), num_threads=machine.processor()["cores"])
        interpreter.allocate_tensors()
    (input_details,), (output_details,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(input_details["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(input_details["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(output_details["index"])

    return _in_batches(run)


def _in_batches(run: Runner) -> Runner:
    """From what takes one batch, float32 in [0, 1], and is for one thread, to what takes uint8 patches from any."""
    one_at_a_time = threading.Lock()

    def in_turn(images: np.ndarray) -> np.ndarray:
        with one_at_a_time:
            return run(images.astype(np.float32) / 255)

    return lambda images: np.concatenate([in_turn(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])
