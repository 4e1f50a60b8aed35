"""No setting without effect: each is read by every experiment, or refused where nothing reads it."""

import json
import re
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from bcgan import experiment
from bcgan.errors import InputError
from bcgan.evaluate import factors
from bcgan.experiment import Classifier, Experiment
from bcgan.settings_effect import MODEL, RULES, given_settings, rule_of
from bcgan.variation import varied

# Settings that every run reads, or the stage of its own that they belong to. `tuned` needs `beside`, which has a rule.
ALWAYS = re.findall(
    r"\S+",
    """
name data.name data.dir data.size data.evaluate_on data.limit
preprocess.audit.unreadable preprocess.audit.wrong_size preprocess.audit.blank preprocess.audit.blurred
preprocess.audit.duplicate preprocess.audit.near_duplicate preprocess.audit.conflicting
preprocess.smoothing preprocess.clahe preprocess.stain
gan.steps gan.batch gan.latent gan.width gan.loss gan.generator_rate gan.discriminator_rate
gan.spectral gan.critic gan.late gan.augment gan.on_collapse gan.average gan.noise gan.grid_every gan.checkpoint_every
translate.steps
features.synthetic features.referee.steps features.referee.confidence features.referee.quantile features.maps
features.density_threshold
classify.models.*.epochs classify.models.*.rate classify.models.*.synthetic
classify.models.*.taught classify.models.*.tuned
classify.seeds classify.batch classify.crop classify.loss classify.optimizer
classify.weight_decay classify.average classify.stain_jitter classify.colour_jitter
evaluate.ensemble evaluate.views evaluate.resamples evaluate.confidence evaluate.probes evaluate.explanations
evaluate.gan_samples
learning_curve.shares learning_curve.arms learning_curve.seeds learning_curve.steps learning_curve.checks
factors.levels folds.networks report.title report.examples seed profile precision xla distribute
""",
)
SIMCLR = 'classify.models={"simclr": {}}'
PRETRAINS = (SIMCLR, "pretrain.steps=5")
LEVELS = 'factors.levels={"loss": {"focal": {"classify.loss": "focal"}}}'
REAL = "learning_curve.arms=[real,classic]"
LISTS = ("data.name=idc", "data.protocol=official")
# By setting: a value that is not its default, what makes it unread, and what makes it read.
CASES: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "data.protocol": ("extended", ("data.name=patch_camelyon",), ("data.name=idc",)),
    "data.folds": (7, LISTS, (*LISTS, "folds.networks=[cnn]")),
    "data.fold": (1, LISTS, ()),
    "data.lists": ("lists", (), LISTS),
    "data.magnification": (40, ("data.name=patient_folder",), ("data.name=breakhis",)),
    "data.mpp": (0.5, ("data.name=idc",), ("data.name=patient_folder",)),
    "data.classes": ({"benign": ["Normal"]}, (), ("data.name=patient_folder",)),
    "data.labels": ("labels.csv", ("data.name=breakhis",), ("data.name=patient_folder",)),
    "data.similar_patients": ("allow", (), ("data.name=idc",)),
    **dict.fromkeys(("translate.batch", "translate.width", "translate.checkpoint_every"),
                    (8, (), ("translate.steps=5",))),
    **dict.fromkeys(("translate.rate", "translate.cycle", "translate.identity"), (0.5, (), ("translate.steps=5",))),
    "translate.average": (0.5, (REAL,), ("learning_curve.arms=[real,translation]",)),
    "pretrain.steps": (5, (), (SIMCLR,)),
    "pretrain.weights": ("shipped", (), ("folds.networks=[simclr]",)),
    "pretrain.patients": ("train", (SIMCLR, "pretrain.weights=shipped"), PRETRAINS),
    **dict.fromkeys(("pretrain.batch", "pretrain.checkpoint_every"), (8, (), PRETRAINS)),
    **dict.fromkeys(("pretrain.rate", "pretrain.temperature", "pretrain.stain_jitter", "pretrain.colour_jitter",
                     "pretrain.smallest"), (0.5, (SIMCLR, "pretrain.weights=shipped"), PRETRAINS)),
    "classify.models.*.selected": (False, ("cnn",), ("cnn", "classify.models.cnn.synthetic=0.1")),
    "classify.models.*.shortcut": ("identity", ("resnet50",), ("resnet34",)),
    "classify.models.*.weights": ("imagenet", ("resnet34",), ("resnet50",)),
    "classify.models.*.beside": ("critic", ("resnet_table1",), ("gan_resnet",)),
    "classify.models.*.enlarged": (64, ("resnet34",), ("efficientnet_lite",)),
    "classify.teachers": (["cnn"], ("classify.models={cnn: {}}",),
                          ("classify.models={cnn: {}, student: {taught: 0.5}}",)),
    "learning_curve.synthetic": (0.3, (REAL,), ()),
    "learning_curve.made": (64, ("learning_curve.arms=[translation]",), ()),
    "learning_curve.gan_steps": (64, (REAL,), ("learning_curve.arms=[selected]",)),
    "learning_curve.translate_steps": (64, (REAL,), ("learning_curve.arms=[translation]",)),
    "factors.network": ("resnet50", (), (LEVELS,)),
    "factors.epochs": (7, (), (LEVELS,)),
    "factors.seeds": ([5], (), (LEVELS,)),
    "factors.activation": ("gelu", (), (LEVELS,)),
    "factors.normalisation": ("group", (), (LEVELS,)),
    "factors.dropout": (0.5, (), (LEVELS,)),
    "folds.epochs": (7, (), ("folds.networks=[cnn]",)),
}  # fmt: skip


def leaves(model: type[BaseModel], parent: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = Classifier if f"{parent}{name}" == "classify.models" else field.annotation
        inner = "classify.models.*." if kind is Classifier else f"{parent}{name}."
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += leaves(kind, inner) if nested else [f"{parent}{name}"]
    return found


@pytest.fixture
def plain(tmp_path) -> str:
    """An experiment that sets nothing but its data."""
    path = tmp_path / "plain.yaml"
    path.write_text("name: plain\ndata: {name: histology_phantom}\n")
    return str(path)


def load(path: str, key: str, value: Any, settings: tuple[str, ...]) -> Experiment:
    if key.startswith(MODEL):
        model, *settings = settings
        key = key.replace("*", model)
        settings = [f"classify.models={{{model}: {{}}}}", *settings]
    return experiment.load(path, (*settings, f"{key}={json.dumps(value)}"))


def test_every_setting_is_read_always_or_refused_where_it_is_not(plain):
    keys = leaves(Experiment)
    assert len(keys) == len(set(keys)) > 100
    assert set(keys) == {*ALWAYS, *CASES}
    assert not set(ALWAYS) & set(CASES)
    assert [key for key in ALWAYS if rule_of(key.replace("*", "cnn"))] == []
    assert {key for rule in RULES for key in rule.keys} == set(CASES)
    for key, (value, unread, read) in CASES.items():
        with pytest.raises(InputError) as error:
            load(plain, key, value, unread)
        shown = key.replace("*", unread[0]) if key.startswith(MODEL) else key
        for words in (f"{plain}: {shown}: ", "has no effect: ", f"Leave it out ({shown}=null), or "):
            assert words in str(error.value), key
        setting = dict(given_settings(load(plain, key, value, read)))
        assert setting[key.replace("*", read[0]) if key.startswith(MODEL) else key] is not None


def test_a_refusal_names_the_value_and_the_remedy(plain):
    with pytest.raises(InputError, match=r"data\.lists: here has no effect: .*set data\.protocol=official"):
        experiment.load(plain, ("data.lists=here",))
    with pytest.raises(InputError, match=r"classify\.models\.cnn\.selected: false has no effect"):
        experiment.load(plain, ("classify.models={cnn: {selected: false}}",))
    with pytest.raises(InputError, match=r"tuned: true, but beside is none"):
        experiment.load(plain, ("classify.models={cnn: {tuned: true}}",))
    with pytest.raises(InputError, match=r"cnn\.beside: critic has no effect"):
        experiment.load(plain, ("classify.models={cnn: {tuned: true, beside: critic}}",))


def test_a_classifier_may_be_written_whole(plain):
    whole = json.dumps(Classifier().model_dump(mode="json"))
    assert experiment.load(plain, (f"classify.models={{cnn: {whole}}}",)).classify.models == {"cnn": Classifier()}


def test_null_takes_back_what_the_file_sets(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndata: {name: idc, folds: 4, evaluate_on: a*}\ntranslate: {steps: 5, width: 8}\n")
    with pytest.raises(InputError, match=r"data\.folds: 4 has no effect"):
        experiment.load(str(path), ("data.protocol=official",))
    settings = experiment.load(str(path), ("data.protocol=official", "data.folds=null", "data.evaluate_on="))
    assert (settings.data.folds, settings.data.evaluate_on) == (5, None)
    with pytest.raises(InputError, match=r"translate\.width: 8 has no effect: translate\.steps is 0"):
        experiment.load(str(path), ("translate.steps=0",))
    assert experiment.load(str(path), ("translate=null",)).translate.width == 24
    with pytest.raises(InputError, match=r"unknown key data\.foldz"):
        experiment.load(str(path), ("data.foldz=null",))


def test_variations_and_levels_are_as_free_as_before():
    idc = experiment.load("idc")
    assert len(factors.levels(idc)) == 1 + sum(map(len, idc.factors.levels.values()))
    assert varied(idc, {"data.protocol": "kfold"}, "here").data.protocol == "kfold"


def test_what_ships_sets_nothing_without_effect():
    for name in experiment.available():
        given = dict(given_settings(experiment.load(name)))
        assert set(yaml.safe_load((experiment.PIPELINES / f"{name}.yaml").read_text())) == {
            key.split(".")[0] for key in given
        }
