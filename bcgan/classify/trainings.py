"""The stage `classify`: train every classifier with every seed.

Each training is a cached artifact: when a classifier is added, it is the only one that is trained.
"""

import functools
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import keras

from bcgan import distribute
from bcgan.artifacts import StageRun
from bcgan.classifiers import CLASSIFIERS, with_simclr
from bcgan.classify import linear
from bcgan.classify.train import Patches, Recipe, TrainingData, select_patches
from bcgan.experiment import TRAINING, Experiment, subset
from bcgan.models.classifier import build_for_run
from bcgan.preprocess import store
from bcgan.settings import Classifier


def train_all(run: StageRun, xla: bool) -> None:
    """Write <classifier>-seed<k>.keras and its log, .jsonl, for each classifier and seed.

    Args:
        xla: Whether training steps are compiled by XLA.

    Raises:
        WorkError: If a loss is NaN or infinite.
    """
    settings, patches = run.experiment.classify, store.load(run.root / "preprocess")
    real, validation = (select_patches(patches, patches.role_indices(role)) for role in ("train", "validation"))

    @functools.cache
    def load_synthetic(is_filtered: bool) -> Patches:
        return Patches(*store.load_synthetic(run.root / "features", run.experiment.data.size, is_filtered))

    def build(name: str, seed: int, folder: Path) -> None:
        """Train a classifier with one seed, and write it and its log into `folder`."""
        model, size = settings.models[name], settings.crop_size or run.experiment.data.size
        keras.utils.set_random_seed(seed)
        with distribute.scope(run.experiment):
            network = build_for_run(name, run.root, size, model, run.experiment.num_classes)
            recipe = Recipe(settings, model, seed, xla and distribute.replicas() == 1)
            synthetic = load_synthetic(model.filter_synthetic) if model.uses_synthetic else None
            data = TrainingData(real, synthetic, validation)
            linear.fit(network, data, recipe, folder / f"{name}-seed{seed}.keras")

    for name, seed in settings.list_trainings():
        artifact = run.cache.get_or_build(
            f"{name}-seed{seed}", training_settings(run.experiment, name), training_inputs(run, name),
            partial(build, name, seed),
        )  # fmt: skip
        for suffix in (".keras", ".jsonl"):
            shutil.copy2(artifact / f"{name}-seed{seed}{suffix}", run.folder)


def training_settings(experiment: Experiment, name: str) -> dict[str, Any]:
    """Return the settings that the training of a classifier depends on, apart from its seed."""
    exclude = ("classify.models", "classify.seeds")
    model = experiment.classify.models[name].training_settings()
    return subset(experiment, (*TRAINING, "classify"), exclude) | {"model": model}


def training_inputs(run: StageRun, name: str) -> dict[str, str]:
    """Return the SHA-256 of the files that the training of a classifier reads, by name."""
    return inputs_read_by(name, run.experiment.classify.models[name], run.inputs)


def inputs_read_by(name: str, model: Classifier, inputs: dict[str, str]) -> dict[str, str]:
    """Return those of a stage's inputs, {<stage>/<file>: SHA-256}, that the training of a classifier reads."""
    spec, stages = CLASSIFIERS[name], {"preprocess"}
    stages |= {"gan"} if spec.uses_discriminator else set()
    stages |= {"features"} if model.uses_synthetic else set()
    stages |= {"pretrain"} if with_simclr({name: model}) else set()
    return {file: digest for file, digest in inputs.items() if file.split("/")[0] in stages}
