"""Refuse settings that have no effect: a run would look as if they had been used.

Each rule names settings and when they are read. A setting without a rule is always read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from bcgan.classifiers import CLASSIFIERS, with_simclr
from bcgan.errors import InputError

if TYPE_CHECKING:
    from bcgan.experiment import Experiment

TFDS_DATA_SETS = ("histology_phantom", "patch_camelyon")  # generated or downloaded by tensorflow-datasets
MODEL = "classify.models.*."

SETTING_OWNERS: dict[str, list[str]] = {}  # classifier setting: the only classifiers that read it
for _name, _spec in CLASSIFIERS.items():
    for _setting in _spec.own_settings:
        SETTING_OWNERS.setdefault(_setting, []).append(_name)


class Rule(NamedTuple):
    """The condition under which settings are read, and the words of the error if they are not.

    Attributes:
        keys: Of the settings, such as `gan.steps`; `*` stands for a classifier's name.
        read: Returns whether an experiment reads them; its second argument is the classifier's name, "" for settings
            that are not a classifier's.
        reason: Why they are not read.
        remedy: How to make them have an effect.
    """

    keys: tuple[str, ...]
    read: Callable[[Experiment, str], bool]
    reason: str
    remedy: str


def _trains_simclr(experiment: Experiment) -> bool:
    """Return whether a classifier starts from SimCLR weights."""
    variants = experiment.ablation.variants.values()
    values = [value for by_name in variants for changes in by_name.values() for value in changes.values()]
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    return bool(with_simclr(experiment.all_models)) or "simclr" in values


def _keys(parent: str, names: str) -> tuple[str, ...]:
    """Return the full keys of settings: `parent` before each of the space-separated `names`."""
    return tuple(f"{parent}{name}" for name in names.split())


RULES = (
    Rule(("data.protocol",), lambda e, _: not (e.data.name == "patch_camelyon" and e.data.protocol == "extended"),
         "PatchCamelyon has no patients beside its authors' split", "set data.protocol=official or kfold"),
    Rule(("data.num_folds",), lambda e, _: e.data.protocol == "kfold" or bool(e.cross_validation.models),
         "patients are split by lists", "set data.protocol=kfold"),
    Rule(("data.test_fold",), lambda e, _: e.data.protocol == "kfold",
         "patients are split by lists", "set data.protocol=kfold"),
    Rule(("data.split_dir",), lambda e, _: e.data.protocol != "kfold" and e.data.name != "patch_camelyon",
         "no lists are read under this data.protocol or of this data set", "set data.protocol=official or extended"),
    Rule(("data.magnification",), lambda e, _: e.data.name == "breakhis",
         "only BreaKHis has magnifications", "set data.name=breakhis"),
    Rule(("data.mpp",), lambda e, _: e.data.name in ("patient_folder", "histology_phantom", "idc"),
         "this data set has its own scale", "set data.name=patient_folder, idc or histology_phantom"),
    Rule(("data.classes",), lambda e, _: e.data.name in ("patient_folder", "breakhis", "histology_phantom"),
         "this data set has the classes benign and malignant", "set data.name=patient_folder"),
    Rule(_keys("data.tile.", "mpp stride min_tissue"),
         lambda e, _: e.data.name in ("patient_folder", "breakhis"),
         "this data set has patches, not images to be cut", "set data.name=patient_folder or breakhis"),
    Rule(("data.labels",), lambda e, _: e.data.name == "patient_folder",
         "this data set has labels of its own", "set data.name=patient_folder"),
    Rule(("data.similar_patients",), lambda e, _: e.data.name not in TFDS_DATA_SETS or e.data.split_dir is not None,
         "this data set's patients are not named by hand", "set data.name to another data set"),
    Rule(_keys("translate.", "classes batch_size base_channels learning_rate cycle_loss_weight identity_loss_weight "
                             "ema_decay checkpoint_interval"), lambda e, _: e.translate.steps > 0,
         "translate.steps is 0", "set translate.steps"),
    Rule(("pretrain.steps", "pretrain.weights"), lambda e, _: _trains_simclr(e) or not e.pretrain.is_enabled,
         "no classifier starts from it", "add efficientnet_lite0_simclr to classify.models or cross_validation.models"),
    Rule(_keys("pretrain.", "include_unlisted batch_size learning_rate temperature stain_jitter color_jitter "
                            "min_crop_scale checkpoint_interval"),
         lambda e, _: e.pretrain.steps > 0, "nothing is pretrained here",
         "set pretrain.steps and pretrain.weights=none"),
    Rule(_keys(MODEL, "learning_rate synthetic_fraction"),
         lambda _, name: not CLASSIFIERS[name].is_frozen,
         "only its last layer is fitted, by logistic regression on real patches", "choose another classifier"),
    Rule((f"{MODEL}filter_synthetic",), lambda e, name: e.classify.models[name].uses_synthetic,
         "it is trained without synthetic patches", "set its synthetic_fraction"),
    *(Rule((f"{MODEL}{setting}",), lambda _, name, owners=owners: name in owners,
           f"only {' and '.join(owners)} read it", f"set it for {owners[0]}")
      for setting, owners in SETTING_OWNERS.items()),
    Rule(_keys("classify.", "batch_size optimizer weight_decay ema_decay"),
         lambda e, _: not all(CLASSIFIERS[name].is_frozen for name in e.all_models),
         "every classifier is frozen, and its head is fitted by logistic regression", "add another classifier"),
    Rule(("evaluate.test_crops",), lambda e, _: e.classify.crop_size is not None,
         "complete patches are scored", "set classify.crop_size"),
    Rule(("evaluate.explained_class",), lambda e, _: e.evaluate.num_explained_patches > 0,
         "evaluate.num_explained_patches is 0", "set evaluate.num_explained_patches"),
    Rule(_keys("learning_curve.", "synthetic_fraction gan_steps num_synthetic"),
         lambda e, _: bool({"gan", "selected"} & set(e.learning_curve.arms)),
         "no arm trains a GAN", "add gan or selected to learning_curve.arms"),
    Rule(_keys("ablation.", "model epochs seeds activation normalization dropout"),
         lambda e, _: bool(e.ablation.variants), "ablation.variants is empty", "set ablation.variants"),
    Rule(("cross_validation.epochs",), lambda e, _: bool(e.cross_validation.models),
         "cross_validation.models is empty", "set cross_validation.models"),
)  # fmt: skip


def check_effect(experiment: Experiment, source: str) -> None:
    """Refuse a setting that was given and that nothing reads.

    `null` and an empty list count as not given, and so does a classifier's setting that is its default: differences
    between experiments are written as whole classifiers.

    Args:
        experiment: Validated from what the user gave: pydantic records which settings were given.
        source: The file that the settings are from, for the error.

    Raises:
        InputError: Names the setting, its value, why it is not read and the remedy.
    """
    for key, value in given_settings(experiment):
        rule = find_rule(key)
        model = key.split(".")[2] if fnmatchcase(key, f"{MODEL}*") else ""
        if rule is None or value in (None, (), {}) or (model and value == _classifier_default(experiment, key)):
            continue
        if not rule.read(experiment, model):
            raise InputError(
                f"{source}: {key}: {_format_value(value)} has no effect: {rule.reason}. Leave it out ({key}=null), or "
                f"{rule.remedy}."
            )


def find_rule(key: str) -> Rule | None:
    """Return the rule of a setting; `None` if it is always read."""
    return next((rule for rule in RULES for pattern in rule.keys if fnmatchcase(key, pattern)), None)


def given_settings(settings: BaseModel, parent: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the key, after the prefix `parent`, and value of each setting that was given, in their order."""
    for name in type(settings).model_fields:
        if name in settings.model_fields_set:
            yield from _settings_in(getattr(settings, name), f"{parent}{name}")


def _settings_in(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Iterate over the settings that were given within the value of one, which may be a group or a dict of groups."""
    if isinstance(value, BaseModel):
        yield from given_settings(value, f"{key}.")
    elif isinstance(value, dict) and any(isinstance(inner, BaseModel) for inner in value.values()):
        for name, inner in value.items():
            yield from _settings_in(inner, f"{key}.{name}")
    else:
        yield key, value


def _classifier_default(experiment: Experiment, key: str) -> Any:
    """Return the default of a classifier's setting, given its key, such as `classify.models.cnn.epochs`."""
    _, _, model, name = key.split(".")
    return type(experiment.classify.models[model]).model_fields[name].default


def _format_value(value: Any) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
