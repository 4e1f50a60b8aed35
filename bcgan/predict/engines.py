"""What runs an exported classifier: LiteRT, which starts in a moment, or Keras, which explanations and GPUs need.

LiteRT's files hold the same networks with batch normalisation folded into the convolutions and weights in half
precision; `bcgan export` keeps them only where they say what Keras says. Both take about as long over many patches.
"""

import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit

NETWORKS = ("classifier", "referee")  # <name>.keras and <name>.tflite in an exported folder
LITERT_FILES = tuple(f"{name}.tflite" for name in NETWORKS)
ENGINES = ("auto", "litert", "keras")
BATCH = 64

Runner = Callable[[np.ndarray], np.ndarray]


class Engine(NamedTuple):
    """score: from uint8 patches (n, size, size, 3) to probabilities of malignancy, (n,). features: from uint8 patches
    at the GAN's size to what the referee's head sees, (n, d)."""

    name: str
    score: Runner
    features: Runner


def choose(wanted: str, folder: Path, files: dict[str, str]) -> Engine:
    """The engine for an exported folder.

    Args:
        wanted: string. "keras", "litert", or "auto": LiteRT where it is installed and the folder holds its files.
        files: dict. What the card names.

    Raises:
        ValueError: LiteRT is wanted and cannot be had, or another engine is.
    """
    if wanted not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}. Received: engine={wanted!r}")
    missing = [name for name in LITERT_FILES if name not in files]
    if wanted == "litert" and missing:
        raise ValueError(f"{folder} holds no {missing[0]}; export it anew, or use the engine keras")
    if wanted == "litert" and not installed():
        raise ValueError("LiteRT is not installed: pip install ai-edge-litert, or use the engine keras")
    if wanted == "keras" or missing or not installed():
        from bcgan.models import weights

        return of_keras(*(weights.in_float32(weights.load_model(folder / f"{name}.keras")) for name in NETWORKS))
    score, features = (litert(folder / name) for name in LITERT_FILES)
    return Engine("litert", lambda images: expit(score(images)[:, 0]), features)


def installed() -> bool:
    """Whether LiteRT can be imported here."""
    return find_spec("ai_edge_litert") is not None


def of_keras(network, judge) -> Engine:
    """From the classifier and the referee as Keras networks."""
    from bcgan.classify import referee
    from bcgan.classify.scoring import scorer

    return Engine("keras", scorer(network), referee.extractor(judge))


def litert(path: Path) -> Runner:
    """LiteRT's interpreter on every core: from uint8 patches to what the file gives, float32."""
    from ai_edge_litert.interpreter import Interpreter

    from bcgan import machine

    interpreter = Interpreter(str(path), num_threads=machine.processor()["cores"])
    interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    one_at_a_time = threading.Lock()  # an interpreter is for one thread

    def run(images: np.ndarray) -> np.ndarray:
        with one_at_a_time:
            if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
                interpreter.resize_tensor_input(given["index"], images.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(given["index"], images.astype(np.float32) / 255)
            interpreter.invoke()
            return interpreter.get_tensor(found["index"])

    return lambda images: np.concatenate([run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])
