"""Compare the probabilities of every timed way of inference with those of Keras, for a briefly trained network.

The networks that are timed have random weights, and give about 0.5 for every patch in any precision.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bcgan import machine

NUM_TRAIN, NUM_TEST = 512, 256  # phantom patches of ten patients each
EPOCHS = 6
MAX_AUC_DIFFERENCE = 0.002


def measure_agreement() -> dict[str, dict]:
    """Compare each subject's probabilities of test patches with Keras's in float32.

    Returns:
        {subject: {largest_difference, roc_auc, faithful}}. faithful: whether no probability differs by more than
        `formats.FAITHFUL`, and ROC AUC by no more than MAX_AUC_DIFFERENCE.
    """
    from sklearn.metrics import roc_auc_score

    from bcgan.bench.subjects import configure
    from bcgan.models import weights
    from bcgan.predict import formats

    configure("float32")
    images, labels = _draw_patches(2, NUM_TEST)
    by_subject = {}
    with tempfile.TemporaryDirectory() as folder:
        network = _train_network(Path(folder))
        expected = formats.read_keras(weights.cast_to_float32(network))(images)
        expected_auc = roc_auc_score(labels, expected)
        for name, score in _subjects(network, Path(folder)):
            probabilities = score(images)
            difference = float(np.abs(probabilities - expected).max())
            auc = float(roc_auc_score(labels, probabilities))
            is_faithful = difference <= formats.MAX_DEVIATION and abs(auc - expected_auc) <= MAX_AUC_DIFFERENCE
            by_subject[name] = {"largest_difference": difference, "roc_auc": auc, "faithful": bool(is_faithful)}
    return by_subject


def _subjects(network, folder: Path) -> Iterator[tuple]:
    """Yield the name and scoring function of each subject of the group `inference` that can run here."""
    import keras

    from bcgan.classify.scoring import make_predict_fn
    from bcgan.models import weights
    from bcgan.models.classifier import build_classifier
    from bcgan.predict import engines, formats

    yield "bcgan float32", make_predict_fn(weights.cast_to_float32(network))
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    copy = build_classifier("resnet_table1")
    copy.set_weights(network.get_weights())
    yield "bcgan mixed_bfloat16", make_predict_fn(copy)
    keras.mixed_precision.set_global_policy("float32")
    float32_path, int8_path = folder / "plain.tflite", folder / "int8.tflite"
    formats.write_litert(network, float32_path)
    formats.write_litert(network, int8_path, _draw_patches(1, formats.NUM_CALIBRATION_PATCHES)[0])
    if engines.is_installed("litert"):
        yield "litert float32", formats.read_litert(float32_path)
        yield "litert int8", formats.read_litert(int8_path)
    if engines.is_installed("openvino"):
        yield "openvino float32", formats.read_openvino(float32_path, "f32")
        yield "openvino bfloat16", formats.read_openvino(float32_path, "bf16")


def _train_network(folder: Path):
    """Train Table 1's network on phantom patches, and return it."""
    import keras

    from bcgan.classify.train import Patches, Recipe, TrainingData, train
    from bcgan.models import weights
    from bcgan.models.classifier import build_classifier
    from bcgan.settings import Classifier, Classify

    keras.utils.set_random_seed(0)
    path, real = folder / "network.keras", Patches(*_draw_patches(1, NUM_TRAIN))
    recipe = Recipe(Classify(batch_size=64), Classifier(epochs=EPOCHS))
    train(build_classifier("resnet_table1"), TrainingData(real), recipe, path)
    return weights.load_model(path)


def _draw_patches(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return phantom patches of the seed's ten patients, uint8, (count, 50, 50, 3), and labels, (count,)."""
    from bcgan.data.histology_phantom.canvas import patient_style
    from bcgan.data.histology_phantom.tissue import render_patch

    rng, indices = np.random.default_rng(seed), np.arange(count)
    styles, labels = [patient_style(rng) for _ in range(10)], indices // 10 % 2
    return np.stack([render_patch(styles[index % 10], labels[index], rng).image for index in indices]), labels


if __name__ == "__main__":
    machine.prepare_environment()
    print(json.dumps(measure_agreement()))
