"""Settings that nothing would read: refused where they are set, since a run would look as if they counted.

Each rule names settings and when they are read. A setting without a rule is always read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from bcgan.errors import InputError

if TYPE_CHECKING:
    from bcgan.experiment import Experiment

LITE = ("efficientnet_lite", "student", "simclr")  # classifiers that are an EfficientNet-Lite
PREPARED = ("histology_phantom", "patch_camelyon")  # data sets that tensorflow-datasets makes or downloads
MODEL = "classify.models.*."


class Rule(NamedTuple):
    """When a setting is read.

    keys: of the settings, `*` standing for a classifier's name.
    read: whether an experiment reads them; its second argument is the classifier's name, "" where there is none.
    reason: why they are not read.
    remedy: what makes them count.
    """

    keys: tuple[str, ...]
    read: Callable[[Experiment, str], bool]
    reason: str
    remedy: str


def _trains_simclr(experiment: Experiment) -> bool:
    return "simclr" in {*experiment.classify.models, *experiment.folds.networks}


def _translates(experiment: Experiment) -> bool:
    curve = "learning_curve" in experiment.model_fields_set and "translation" in experiment.learning_curve.arms
    return experiment.translate.steps > 0 or curve


def _under(parent: str, names: str) -> tuple[str, ...]:
    return tuple(f"{parent}{name}" for name in names.split())


RULES = (
    Rule(("data.protocol",), lambda e, _: not (e.data.name == "patch_camelyon" and e.data.protocol == "extended"),
         "PatchCamelyon has no patients beside its authors' split", "set data.protocol=official or kfold"),
    Rule(("data.folds",), lambda e, _: e.data.protocol == "kfold" or bool(e.folds.networks),
         "patients are split by lists", "set data.protocol=kfold"),
    Rule(("data.fold",), lambda e, _: e.data.protocol == "kfold",
         "patients are split by lists", "set data.protocol=kfold"),
    Rule(("data.lists",), lambda e, _: e.data.protocol != "kfold" and e.data.name != "patch_camelyon",
         "no lists are read under this data.protocol or of this data set", "set data.protocol=official or extended"),
    Rule(("data.magnification",), lambda e, _: e.data.name == "breakhis",
         "only BreaKHis has magnifications", "set data.name=breakhis"),
    Rule(("data.mpp", "data.classes", "data.labels"), lambda e, _: e.data.name == "patient_folder",
         "this data set has its own scale and classes", "set data.name=patient_folder"),
    Rule(("data.similar_patients",), lambda e, _: e.data.name not in PREPARED or e.data.lists is not None,
         "this data set's patients are not named by hand", "set data.name to another data set"),
    Rule(_under("translate.", "batch width rate cycle identity average checkpoint_every"), lambda e, _: _translates(e),
         "translate.steps is 0", "set translate.steps"),
    Rule(("pretrain.steps", "pretrain.weights"), lambda e, _: _trains_simclr(e) or not e.pretrain.wanted,
         "no classifier starts from it", "add simclr to classify.models or folds.networks"),
    Rule(_under("pretrain.", "patients batch rate temperature stain_jitter colour_jitter smallest checkpoint_every"),
         lambda e, _: e.pretrain.steps > 0, "nothing is pretrained here",
         "set pretrain.steps and pretrain.weights=none"),
    Rule((f"{MODEL}selected",), lambda e, name: e.classify.models[name].meets_synthetic,
         "it is trained without synthetic patches", "set its synthetic"),
    Rule((f"{MODEL}shortcut",), lambda _, name: name == "resnet34", "only resnet34 has such shortcuts",
         "set it for resnet34"),
    Rule((f"{MODEL}weights",), lambda _, name: name == "resnet50", "only resnet50 can start from other weights",
         "set it for resnet50"),
    Rule(_under(MODEL, "beside"), lambda _, name: name == "gan_resnet",
         "nothing joins this classifier", "set it for gan_resnet"),
    Rule(_under(MODEL, "enlarged"), lambda _, name: name in LITE, "it is no EfficientNet-Lite",
         f"set it for one of {', '.join(LITE)}"),
    Rule(("classify.teachers",), lambda e, _: any(model.taught for model in e.classify.models.values()),
         "no classifier is taught", "set classify.models.student.taught"),
    Rule(("learning_curve.synthetic",),
         lambda e, _: bool({"gan", "selected", "translation"} & set(e.learning_curve.arms)),
         "no arm adds synthetic patches", "add gan, selected or translation to learning_curve.arms"),
    Rule(("learning_curve.gan_steps", "learning_curve.made"),
         lambda e, _: bool({"gan", "selected"} & set(e.learning_curve.arms)),
         "no arm trains a GAN", "add gan or selected to learning_curve.arms"),
    Rule(("learning_curve.translate_steps",), lambda e, _: "translation" in e.learning_curve.arms,
         "no arm translates", "add translation to learning_curve.arms"),
    Rule(_under("factors.", "network epochs seeds activation normalisation dropout"),
         lambda e, _: bool(e.factors.levels), "factors.levels is empty", "set factors.levels"),
    Rule(("folds.epochs",), lambda e, _: bool(e.folds.networks), "folds.networks is empty", "set folds.networks"),
)  # fmt: skip


def check_effect(experiment: Experiment, where: str) -> None:
    """Refuse a setting that was given and that nothing reads.

    `null` and an empty list count as not given, and so does a classifier's setting that is its default: differences
    between experiments are written as whole classifiers.

    Args:
        experiment: As it was validated, so that it knows what was given.
        where: What gave the settings, for the error.

    Raises:
        InputError: Names the setting, its value, why it is not read and the remedy.
    """
    for key, value in given_settings(experiment):
        rule = rule_of(key)
        model = key.split(".")[2] if fnmatchcase(key, f"{MODEL}*") else ""
        if rule is None or value in (None, (), {}) or (model and value == _default(experiment, key)):
            continue
        if not rule.read(experiment, model):
            raise InputError(
                f"{where}: {key}: {_format_value(value)} has no effect: {rule.reason}. Leave it out ({key}=null), or "
                f"{rule.remedy}."
            )


def rule_of(key: str) -> Rule | None:
    """Return the rule of a setting; `None` if it is always read."""
    return next((rule for rule in RULES for pattern in rule.keys if fnmatchcase(key, pattern)), None)


def given_settings(settings: BaseModel, parent: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the key and value of each setting that was given, in the order of the fields."""
    for name in type(settings).model_fields:
        if name in settings.model_fields_set:
            yield from _settings_given(getattr(settings, name), f"{parent}{name}")


def _settings_given(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        yield from given_settings(value, f"{key}.")
    elif isinstance(value, dict) and any(isinstance(inner, BaseModel) for inner in value.values()):
        for name, inner in value.items():
            yield from _settings_given(inner, f"{key}.{name}")
    else:
        yield key, value


def _default(experiment: Experiment, key: str) -> Any:
    """Return the default of a classifier's setting."""
    _, _, model, name = key.split(".")
    return type(experiment.classify.models[model]).model_fields[name].default


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
