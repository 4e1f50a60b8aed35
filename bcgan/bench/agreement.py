"""Whether what is quick also says the same: Table 1's network, briefly trained, by every way of scoring that is timed.

The networks that are timed are fresh, and those say about 0.5 of every patch in any precision.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bcgan import machine

TRAINED, HELD_OUT = 512, 256  # patches of phantom tissue, each of ten patients
EPOCHS = 6
FAITHFUL_AUC = 0.002


def agreement() -> dict[str, dict]:
    """By subject: largest_difference of a probability from the network's in Keras, in float32, on held-out patches;
    roc_auc; and faithful, whether no probability differs by more than FAITHFUL nor the area by FAITHFUL_AUC."""
    from sklearn.metrics import roc_auc_score

    from bcgan.bench.subjects import start
    from bcgan.models import weights
    from bcgan.predict import formats

    start("float32")
    images, labels = _tissue(2, HELD_OUT)
    by_subject = {}
    with tempfile.TemporaryDirectory() as folder:
        network = _trained(Path(folder))
        expected = formats.read_keras(weights.in_float32(network))(images)
        area = roc_auc_score(labels, expected)
        for name, run in _subjects(network, Path(folder)):
            probabilities = run(images)
            difference, auc = float(np.abs(probabilities - expected).max()), float(roc_auc_score(labels, probabilities))
            faithful = difference <= formats.FAITHFUL and abs(auc - area) <= FAITHFUL_AUC
            by_subject[name] = {"largest_difference": difference, "roc_auc": auc, "faithful": bool(faithful)}
    return by_subject


def _subjects(network, folder: Path) -> Iterator[tuple]:
    """Those of the group `inference` that run here, by the names that they have there."""
    import keras

    from bcgan.classify.scoring import scorer
    from bcgan.models import weights
    from bcgan.models.classifier import classifier
    from bcgan.predict import engines, formats

    yield "bcgan float32", scorer(weights.in_float32(network))
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    copy = classifier("resnet_table1")
    copy.set_weights(network.get_weights())
    yield "bcgan mixed_bfloat16", scorer(copy)
    keras.mixed_precision.set_global_policy("float32")
    plain, small = folder / "plain.tflite", folder / "int8.tflite"
    formats.write_litert(network, plain)
    formats.write_litert(network, small, _tissue(1, formats.SAMPLE)[0])
    if engines.installed("litert"):
        yield "litert float32", formats.read_litert(plain)
        yield "litert int8", formats.read_litert(small)
    if engines.installed("openvino"):
        yield "openvino float32", formats.read_openvino(plain, "f32")
        yield "openvino bfloat16", formats.read_openvino(plain, "bf16")


def _trained(folder: Path):
    import keras

    from bcgan.classify.train import Patches, Recipe, TrainingData, train
    from bcgan.models import weights
    from bcgan.models.classifier import classifier
    from bcgan.settings import Classifier, Classify

    keras.utils.set_random_seed(0)
    path, real = folder / "network.keras", Patches(*_tissue(1, TRAINED))
    classifier_settings = Classifier(epochs=EPOCHS)
    train(classifier("resnet_table1"), TrainingData(real), Recipe(Classify(batch_size=64), classifier_settings), path)
    return weights.load_model(path)


def _tissue(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of other patients for another seed: uint8, (count, 50, 50, 3), and labels, (count,)."""
    from bcgan.data.histology_phantom.drawing import patient_style
    from bcgan.data.histology_phantom.tissue import render_patch

    rng, numbers = np.random.default_rng(seed), np.arange(count)
    styles, labels = [patient_style(rng) for _ in range(10)], numbers // 10 % 2
    return np.stack([render_patch(styles[i % 10], labels[i], rng).image for i in numbers]), labels


if __name__ == "__main__":
    machine.prepare_environment()
    print(json.dumps(agreement()))
