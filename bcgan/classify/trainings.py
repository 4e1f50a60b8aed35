"""The stage `classify`: train every classifier with every seed.

Each training is a cached artifact: when a classifier is added, it is the only one that is trained.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import keras

from bcgan import distribute, runs
from bcgan.artifacts import StageRun
from bcgan.classifiers import CLASSIFIERS, with_simclr
from bcgan.classify import linear, teaching
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
        InputError: If a classifier is distilled, and there are no unlisted patients for its teachers to label.
        WorkError: If a loss is NaN or infinite.
    """
    settings, patches = run.experiment.classify, store.load(run.root / "preprocess")
    students = {name for name, model in settings.models.items() if model.distillation_fraction}
    if students:
        teaching.unlisted_rows(run.experiment, patches)  # raises before the teachers are trained
    real, validation = (select_patches(patches, patches.role_indices(role)) for role in ("train", "validation"))
    extra: dict[Any, Patches] = {}  # loaded or labeled once, when the first classifier needs it

    def extra_patches(model: Classifier) -> Patches | None:
        kind = "distilled" if model.distillation_fraction else model.filter_synthetic
        if not model.extra_fraction:
            return None
        if kind not in extra and model.distillation_fraction:
            extra[kind] = teaching.distilled_patches(run.experiment, patches, run.folder)
        elif kind not in extra:
            extra[kind] = Patches(*store.load_synthetic(run.root / "features", run.experiment.data.size, kind))
        return extra[kind]

    def build(name: str, seed: int, folder: Path) -> None:
        model, size = settings.models[name], settings.crop_size or run.experiment.data.size
        keras.utils.set_random_seed(seed)
        with distribute.scope(run.experiment):
            network = build_for_run(name, run.root, size, model, run.experiment.num_classes)
            recipe = Recipe(settings, model, seed, xla and distribute.replicas() == 1)
            data = TrainingData(real, extra_patches(model), validation)
            linear.fit(network, data, recipe, folder / f"{name}-seed{seed}.keras")

    for name in sorted(settings.models, key=lambda name: name in students):  # teachers first
        for seed in settings.seeds:
            artifact = run.cache.get_or_build(
                f"{name}-seed{seed}", training_settings(run.experiment, name), training_inputs(run, name),
                partial(build, name, seed),
            )  # fmt: skip
            for suffix in (".keras", ".jsonl"):
                shutil.copy2(artifact / f"{name}-seed{seed}{suffix}", run.folder)


def training_settings(experiment: Experiment, name: str) -> dict[str, Any]:
    """Return the settings that the training of a classifier depends on, apart from its seed."""
    exclude = ("classify.models", "classify.seeds", "classify.teachers")
    model = experiment.classify.models[name].model_dump(mode="json")
    return subset(experiment, (*TRAINING, "classify"), exclude) | {"model": model}


def training_inputs(run: StageRun, name: str) -> dict[str, str]:
    """Return the SHA-256 of the files that the training of a classifier reads, by name."""
    classify = run.experiment.classify
    inputs = inputs_read_by(name, classify.models[name], run.inputs)
    if classify.models[name].distillation_fraction:
        teachers = [f"{teacher}-seed{seed}.keras" for teacher in classify.teachers for seed in classify.seeds]
        inputs |= {file: runs.hash_file(run.folder / file) for file in teachers}
    return inputs


def inputs_read_by(name: str, model: Classifier, inputs: dict[str, str]) -> dict[str, str]:
    """Return those of a stage's inputs that the training of a classifier reads."""
    spec, stages = CLASSIFIERS[name], {"preprocess"}
    stages |= {"gan"} if spec.uses_discriminator else set()
    stages |= {"features"} if model.uses_synthetic else set()
    stages |= {"pretrain"} if with_simclr({name: model}) else set()
    return {file: digest for file, digest in inputs.items() if file.split("/")[0] in stages}
