"""An experiment: the settings of every part, read from one YAML file; unknown keys are refused."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from bcgan import experiment_files, renamed
from bcgan.classifiers import CLASSIFIERS, with_simclr
from bcgan.errors import InputError
from bcgan.settings import (
    Classifier,
    Classify,
    Data,
    Evaluate,
    Features,
    Gan,
    Preprocess,
    Pretrain,
    Report,
    Settings,
    Switch,
    Translate,
)
from bcgan.settings_effect import check_effect
from bcgan.study_settings import Ablation, CrossValidation, LearningCurve, Release, Tune
from bcgan.yaml_text import read_yaml

NAME = re.compile(r"^[a-z][a-z0-9_]*$")  # of an experiment, which is that of its folder
TRAINING = ("seed", "profile", "precision", "xla")  # settings that every training depends on
# Settings that do not affect the outputs and are therefore left out of the cache key. Of `inception_graph` the content
# of the file is in the key.
WITHOUT_EFFECT_ON_OUTPUTS = (
    "gan.checkpoint_interval", "gan.on_mode_collapse", "translate.checkpoint_interval", "pretrain.checkpoint_interval",
    "evaluate.inception_graph",
)  # fmt: skip
# Settings that the trainings of `ablation`, `cross_validation` and `learning_curve` ignore, or set themselves.
SET_BY_STAGE = (
    *WITHOUT_EFFECT_ON_OUTPUTS, "gan.steps", "gan.projected_discriminator_3x3_steps", "gan.sample_grid_interval",
    "features.num_synthetic", "features.saved_blocks", "features.nuclear_od_threshold", "classify.seeds",
)  # fmt: skip


class Experiment(Settings):
    """One experiment. Each stage reads its own part, and the settings at the end, which apply to all stages."""

    name: str = Field(pattern=NAME.pattern)
    data: Data
    preprocess: Preprocess = Preprocess()
    gan: Gan = Gan()
    translate: Translate = Translate()
    features: Features = Features()
    pretrain: Pretrain = Pretrain()
    classify: Classify = Classify()
    evaluate: Evaluate = Evaluate()
    learning_curve: LearningCurve = LearningCurve()
    ablation: Ablation = Ablation()
    cross_validation: CrossValidation = CrossValidation()
    release: Release = Release()
    tune: Tune = Tune()
    report: Report = Report()
    seed: int = Field(0, ge=0)
    profile: Literal["repro", "fast"] = "fast"
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    xla: Switch = "auto"
    distribute: Switch = "auto"  # auto: over the workers of TF_CONFIG, or over several GPUs
    track: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()  # programs that show trainings while they run

    @property
    def proposed(self) -> str:
        """Return the name of the classifier that the others are compared with.

        It is not the first of `classify.models`: a manifest sorts its keys, so the order is lost.
        """
        return "gan_resnet" if "gan_resnet" in self.classify.models else min(self.classify.models)

    @property
    def all_models(self) -> dict[str, Classifier]:
        """Return the settings of each classifier that the experiment may train; default ones of those not listed."""
        return {name: Classifier() for name in self.cross_validation.models} | self.classify.models

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.data.class_names)

    @property
    def translated_labels(self) -> tuple[int, int]:
        """Return the labels of the pair of classes that is translated."""
        names = self.data.class_names
        first, second = self.translate.classes or (names[0], names[-1])
        return names.index(first), names.index(second)

    @property
    def explained_label(self) -> int:
        """Return the label of the class whose pixels explanations show."""
        names = self.data.class_names
        return names.index(self.evaluate.explained_class or names[-1])

    @property
    def ensemble_members(self) -> tuple[str, ...]:
        """Return the classifiers whose mean logit is refined by spatial context and exported."""
        return self.evaluate.ensemble_models or (self.proposed,)

    @property
    def bootstrap(self) -> tuple[int, float, int]:
        """Return how intervals are computed: number of resamples, confidence in (0, 1), and random seed."""
        return self.evaluate.bootstrap_samples, self.evaluate.confidence_level, self.seed

    @model_validator(mode="after")
    def _check_split(self) -> "Experiment":
        """Check that the protocol has patient lists if it needs them, and that the test fold exists."""
        data = self.data
        if data.protocol in ("official", "extended") and not (data.split_dir or data.name in ("idc", "patch_camelyon")):
            raise ValueError(
                f"data.protocol: {data.protocol} needs patient lists, and bcgan has none for this data set; "
                "set data.split_dir to a folder with train.txt, validation.txt and test.txt, or data.protocol to kfold"
            )
        if data.test_fold >= data.num_folds:
            raise ValueError(f"data.test_fold: {data.test_fold} must be below data.num_folds: {data.num_folds}")
        return self

    @model_validator(mode="after")
    def _check_classifiers(self) -> "Experiment":
        """Check that seeds, sizes, losses, weights and features of the classifiers fit each other and other parts."""
        classify, models = self.classify, self.classify.models
        if classify.crop_size and classify.crop_size > self.data.size:
            raise ValueError(f"classify.crop_size: {classify.crop_size} is larger than data.size: {self.data.size}")
        if unknown := set(self.evaluate.ensemble_models) - set(models):
            raise ValueError(f"evaluate.ensemble_models: {min(unknown)} is not among classify.models")
        frozen = [name for name in self.all_models if CLASSIFIERS[name].is_frozen]
        if frozen and classify.loss == "focal":
            raise ValueError(f"classify.loss: focal is not a loss of {frozen[0]}; set weighted_bce or bce")
        densenet = self.all_models.get("densenet121")
        if densenet and densenet.weights == "none":
            raise ValueError("classify.models.densenet121.weights: none are random; set imagenet or histology")
        features = self.all_models.get("resnet_features")
        if features and features.extra_features not in ("imagenet", "simclr"):
            raise ValueError(
                f"classify.models.resnet_features.extra_features: {features.extra_features} has no maps for this "
                "control without the GAN; set imagenet or simclr"
            )
        for name, model in models.items():
            if model.weights == "histology" and name != "densenet121":
                raise ValueError(f"classify.models.{name}.weights: histology are DenseNet121's; set none or imagenet")
            if model.extra_features == "projected_discriminator" and not self.gan.projected_discriminator_weight:
                raise ValueError(
                    f"classify.models.{name}.extra_features: projected_discriminator is not trained with "
                    "gan.projected_discriminator_weight 0; set a weight, or other features"
                )
        pretrained = with_simclr(self.all_models)
        if pretrained and not self.pretrain.is_enabled:
            raise ValueError(f"{pretrained[0]} needs pretrained weights; set pretrain.steps or pretrain.weights")
        return self

    @model_validator(mode="after")
    def _check_class_names(self) -> "Experiment":
        """Check that the settings which name classes name those of the data, and that a GAN's batch has each."""
        names, pair = self.data.class_names, self.translate.classes or ()
        for key, name in (
            ("evaluate.explained_class", self.evaluate.explained_class),
            *(("translate.classes", name) for name in pair),
        ):
            if name is not None and name not in names:
                raise ValueError(f"{key}: {name} is none of the classes {', '.join(names)}")
        if len(set(pair)) == 1:
            raise ValueError(f"translate.classes: {pair[0]} is named twice; name two classes")
        if len(names) > self.gan.batch_size:
            raise ValueError(f"gan.batch_size: {self.gan.batch_size} is less than the {len(names)} classes; raise it")
        return self

    @model_validator(mode="after")
    def _check_comparisons(self) -> "Experiment":
        """Check that the ablation and the cross-validation can train the classifiers that they name."""
        models, ablated = self.classify.models, self.ablation.model
        if self.ablation.variants and ablated not in models:
            raise ValueError(f"ablation.model: {ablated} is not among classify.models")
        if self.ablation.variants and CLASSIFIERS[ablated].is_frozen:
            raise ValueError(f"ablation.model: {ablated} is not trained but fitted; choose another model")
        for name in self.cross_validation.models:
            if CLASSIFIERS[name].uses_discriminator:
                raise ValueError(
                    f"cross_validation.models: {name} contains a discriminator that was trained on patients of every "
                    "fold; choose models without one"
                )
        return self


def subset(experiment: Experiment, include: Iterable[str], exclude: Iterable[str] = ()) -> dict[str, Any]:
    """Return some of an experiment's settings as nested dicts, as JSON has them.

    Args:
        include, exclude: Names such as `gan` or `gan.steps`.

    Raises:
        KeyError: If a name is not a setting.
    """
    return experiment.model_dump(mode="json", include=_name_tree(include), exclude=_name_tree(exclude))


def _name_tree(names: Iterable[str]) -> dict[str, Any]:
    """Return dotted names as nested dicts, as pydantic's `include` and `exclude` take: {"gan": {"steps": True}}."""
    tree: dict[str, Any] = {}
    for name in names:
        branch, model = tree, Experiment
        *parents, last = name.split(".")
        for parent in parents:
            branch, model = branch.setdefault(parent, {}), model.model_fields[parent].annotation
        if last not in model.model_fields:
            raise KeyError(f"{name} is not a setting")
        branch[last] = True
    return tree


def load(name: str, overrides: tuple[str, ...] = (), data_dir: str | None = None) -> Experiment:
    """Read an experiment.

    Args:
        name: An experiment that `bcgan list` shows, or a path to a YAML file.
        overrides: `key.subkey=value` pairs, values written as YAML; null removes what the file sets. Of two for one key
            the last counts, as on other command lines.
        data_dir: Folders or archives joined by the platform's path separator, instead of `data.dir`.

    Raises:
        InputError: If the experiment is unknown, the file is not YAML, a key is there twice, is unknown or has an
            earlier version's name, a value has the wrong type, or a setting has no effect.
    """
    path = experiment_files.find(name)
    tree = read_yaml(experiment_files.read_text(path), str(path), "Correct that line.")
    if not isinstance(tree, dict):
        raise InputError(f"{path} contains {tree!r} instead of settings. Start with `name:` and `data:`.")
    if tree.get("name") != path.stem:
        raise InputError(
            f"{path}: name is {tree.get('name')!r}; its runs would mix with that experiment's. Name it {path.stem!r}."
        )
    for pair in overrides:
        _override(tree, pair)
    if data_dir and isinstance(tree.get("data"), dict):
        tree["data"]["dir"] = [part for part in data_dir.split(os.pathsep) if part]
    try:
        experiment = Experiment.model_validate(tree)
    except ValidationError as error:
        raise InputError(format_validation_error(path, error)) from error
    check_effect(experiment, str(path))
    return experiment


def format_validation_error(source: Path | str, error: ValidationError) -> str:
    """Return a message on the first fault of the settings, and the number of others.

    Of an unknown key it gives the new name if the key was renamed, else the keys that are known there.

    Args:
        source: The file or setting that the faulty values come from.
    """
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"]) or "settings"
    others_text = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] != "extra_forbidden":
        reason = fault["msg"].removeprefix("Value error, ")
        value = "" if fault["type"] == "value_error" else f" Received: {fault['input']!r}."
        return f"{source}: {key}: {reason}.{value}{others_text}"
    if new := renamed.current_setting_name(key):
        return f"{source}: {key} (value {fault['input']!r}) is now called {new}. Rename it.{others_text}"
    if note := renamed.removal_note(key):
        return f"{source}: {key} (value {fault['input']!r}) is no setting any more: {note}.{others_text}"
    # Find the settings class that lacks the key; a part that is no field is the name of a classifier.
    model: Any = Experiment
    for part in fault["loc"][:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else Classifier
    known = ", ".join(getattr(model, "model_fields", {}))
    return f"{source}: unknown key {key} (value {fault['input']!r}). Known there: {known}.{others_text}"


def _override(tree: dict[str, Any], pair: str) -> None:
    """Apply a `key.subkey=value` pair to nested settings, in place."""
    keys, equals, value = pair.partition("=")
    if not equals:
        raise InputError(f"{pair!r} is not a setting. Write key.subkey=value, such as gan.steps=500.")
    *parents, last = keys.strip().split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise InputError(f"{pair!r}: {key} has no settings of its own. Write key.subkey=value.")
    setting = read_yaml(value, f"{pair!r}", "Write lists without spaces: classify.seeds=[0,1].")
    if setting is None and last in tree:
        del tree[last]
    else:
        tree[last] = setting
