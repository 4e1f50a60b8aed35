"""`make bench`: how many patches a second are prepared and fed, and Table 1's network trains on and scores.

Each figure is the median of several repeats in one process, the repeats of all figures in alternation, so that a
machine that slows down slows all of them. Writes reports/bench/results.json.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bcgan import machine, progress, runs
from bcgan.experiment import Experiment, load

REPEATS = 5
PATCHES = 4_000
TRAINING_STEPS = 20


def main() -> None:
    """Measure, print and write."""
    machine.prepare_environment()
    progress.start_log(None)
    settings = load("phantom")
    machine.start(settings)
    with tempfile.TemporaryDirectory() as folder:
        images, experiment = _png_folder(Path(folder))
        figures = {
            "preprocess": _preprocess(experiment, Path(folder) / "preprocess"),
            "input": _input(images),
            "training_table1": _training(images),
            "inference_table1": _inference(images),
        }
        rates: dict[str, list[float]] = {name: [] for name in figures}
        for repeat in range(REPEATS + 1):
            for name, run in figures.items():
                began = time.perf_counter()
                count = run()
                if repeat:  # the first is for warming up
                    rates[name].append(count / (time.perf_counter() - began))
    found = {
        "patches_per_second": {name: round(statistics.median(values)) for name, values in rates.items()},
        "spread": {name: [round(min(values)), round(max(values))] for name, values in rates.items()},
        "repeats": REPEATS,
        "machine": {**machine.processor(), "load": os.getloadavg()[0]},
        "choices": {name: value for name, (value, _) in machine.choices(settings).items()},
        "versions": machine.environment()["packages"],
    }
    out = Path("reports/bench")
    out.mkdir(parents=True, exist_ok=True)
    runs.write_json(out / "results.json", found)
    for name, rate in found["patches_per_second"].items():
        low, high = found["spread"][name]
        progress.log.info("%-18s %7d patches/s (%d to %d)", name, rate, low, high)


def _png_folder(folder: Path) -> tuple:
    """Phantom patches as PNG files under the IDC archive's names, and an experiment that reads them."""
    import cv2
    import numpy as np

    from bcgan.data.histology_phantom.drawing import patient_style
    from bcgan.data.histology_phantom.tissue import render_patch

    rng = np.random.default_rng(0)
    styles = [patient_style(rng) for _ in range(10)]
    images = np.stack([render_patch(styles[i % 10], i // 10 % 2, rng).image for i in range(PATCHES)])
    for i, image in enumerate(images):
        path = folder / f"png/{i % 10}_idx5_x{i}_y1_class{i // 10 % 2}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    (folder / "preprocess").mkdir()
    return images, Experiment(name="bench", data={"name": "idc", "dir": (folder / "png",)})


def _preprocess(experiment: Experiment, folder: Path) -> Callable[[], int]:
    from bcgan.preprocess import store

    def run() -> int:
        store.build(experiment, folder)
        return PATCHES

    return run


def _input(images) -> Callable[[], int]:
    """The input pipeline with the classifier's augmentation, and no network behind it."""
    import numpy as np
    import tensorflow as tf

    from bcgan.data import batches

    @tf.function
    def augment(step, patches):
        seed = tf.stack([tf.constant(0, tf.int64), step])
        patches = batches.dihedral(batches.scale(patches), seed)
        return batches.colour_jitter(batches.stain_jitter(patches, seed, 0.15), seed, 0.05)

    def run() -> int:
        sampler = batches.shuffled(np.arange(PATCHES), 64, 0)
        steps = range(4 * (PATCHES // 64))
        for step, patches, _ in batches.stream(images, np.zeros(PATCHES), sampler, steps):
            augment(step, patches)
        return len(steps) * 64

    return run


def _training(images) -> Callable[[], int]:
    import numpy as np
    import tensorflow as tf

    from bcgan.classify import train
    from bcgan.experiment import Classifier, Classify
    from bcgan.models.classifier import classifier

    settings, network = Classify(batch=128), classifier("resnet_table1")
    optimizer = train.make_optimizer(network, Classifier(), settings, TRAINING_STEPS)
    step = train.make_step(network, classifier("resnet_table1"), optimizer, settings, (1.0, 1.0), 0, False)
    patches, labels = tf.constant(images[:128]), tf.constant(np.arange(128) % 2)

    def run() -> int:
        for number in range(TRAINING_STEPS):
            float(step(tf.constant(number, tf.int64), patches, labels)[0])
        return TRAINING_STEPS * 128

    return run


def _inference(images) -> Callable[[], int]:
    from bcgan.classify.train import scorer
    from bcgan.models.classifier import classifier

    score = scorer(classifier("resnet_table1"))

    def run() -> int:
        return len(score(images))

    return run


if __name__ == "__main__":
    main()
