"""No setting is without effect: each is read by every experiment, or refused if nothing reads it."""

import json
import re
from typing import Any

import pytest
import yaml

from bcgan import experiment, experiment_files
from bcgan.errors import InputError
from bcgan.evaluate import ablation
from bcgan.experiment import Experiment
from bcgan.settings import Classifier
from bcgan.settings_effect import MODEL, RULES, find_rule, given_settings
from bcgan.variation import with_overrides
from tests.settings_tree import leaves

# Settings that every run reads, or that belong to an optional stage. `finetune_extra_features` needs
# `extra_features`, which has a rule.
ALWAYS = re.findall(
    r"\S+",
    """
name data.name data.dir data.size data.eval_sources data.max_patches_per_class data.subsample_fraction
preprocess.audit.unreadable preprocess.audit.wrong_size preprocess.audit.blank preprocess.audit.blurred
preprocess.audit.duplicate preprocess.audit.near_duplicate preprocess.audit.conflicting_labels
preprocess.blur preprocess.clahe preprocess.stain_normalization preprocess.write_tfds
gan.steps gan.batch_size gan.latent_dim gan.base_channels gan.loss gan.generator_learning_rate
release.networks release.epochs release.tuning_patients
gan.discriminator_learning_rate
gan.spectral_norm gan.layout_loss_weight gan.projected_discriminator_weight gan.projected_discriminator_3x3_steps
gan.diff_augment
gan.on_mode_collapse gan.ema_decay gan.latent_std gan.sample_grid_interval gan.checkpoint_interval
translate.steps
features.num_synthetic features.quality_filter.steps features.quality_filter.min_confidence
features.quality_filter.distance_quantile features.saved_blocks
features.nuclear_od_threshold
classify.models.*.epochs classify.models.*.seeds classify.models.*.finetune_extra_features
classify.seeds classify.patient_balance classify.crop_size classify.loss classify.stain_jitter classify.color_jitter
evaluate.ensemble_models evaluate.tta_views evaluate.bootstrap_samples evaluate.confidence_level evaluate.probe_seeds
evaluate.num_explained_patches
evaluate.num_gan_samples evaluate.inception_graph
learning_curve.train_fractions learning_curve.arms learning_curve.seeds learning_curve.train_steps
learning_curve.num_validations
ablation.variants cross_validation.models report.title report.num_examples seed profile precision xla distribute
track tune.model tune.learning_rate tune.epochs tune.batch_size tune.stain_jitter tune.color_jitter tune.loss
""",
)
JOINED = (
    'ablation.variants={"joined": {"SimCLR": {"ablation.model": "gan_resnet", '
    '"classify.models.gan_resnet": {"extra_features": "simclr"}}}}'
)
SIMCLR = 'classify.models={"efficientnet_lite0_simclr": {}}'
PRETRAINS = (SIMCLR, "pretrain.steps=5")
FROZEN = ("classify.models={simclr_linear: {}}", "pretrain.weights=shipped")
LINEAR = ("simclr_linear", "pretrain.weights=shipped")
LEVELS = 'ablation.variants={"loss": {"focal": {"classify.loss": "focal"}}}'
REAL = "learning_curve.arms=[real,classic]"
LISTS = ("data.name=idc", "data.protocol=official")
# By setting: a value that is not its default, settings under which it is unread, and settings under which it is read.
CASES: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "data.protocol": ("extended", ("data.name=patch_camelyon",), ("data.name=idc",)),
    "data.num_folds": (7, LISTS, (*LISTS, "cross_validation.models=[cnn]")),
    "data.test_fold": (1, LISTS, ()),
    "data.split_dir": ("lists", (), LISTS),
    "data.magnification": (40, ("data.name=patient_folder",), ("data.name=breakhis",)),
    "data.mpp": (0.5, ("data.name=patch_camelyon",), ("data.name=patient_folder",)),
    "data.classes": ({"benign": ["Normal"]}, ("data.name=idc",), ("data.name=patient_folder",)),
    "data.tile.mpp": (4, (), ("data.name=breakhis",)),
    "data.tile.stride": (4, (), ("data.name=breakhis",)),
    "data.tile.min_tissue": (0.5, (), ("data.name=breakhis",)),
    "data.labels": ("labels.csv", ("data.name=breakhis",), ("data.name=patient_folder",)),
    "data.similar_patients": ("allow", (), ("data.name=idc",)),
    **dict.fromkeys(("translate.batch_size", "translate.base_channels", "translate.checkpoint_interval"),
                    (8, (), ("translate.steps=5",))),
    **dict.fromkeys(("translate.learning_rate", "translate.cycle_loss_weight", "translate.identity_loss_weight"),
                    (0.5, (), ("translate.steps=5",))),
    "translate.classes": (["benign", "malignant"], (), ("translate.steps=5",)),
    "translate.ema_decay": (0.5, (REAL,), ("translate.steps=5",)),
    "pretrain.steps": (5, (), (SIMCLR,)),
    "pretrain.weights": ("shipped", (), ("cross_validation.models=[efficientnet_lite0_simclr]",)),
    "pretrain.include_unlisted": (False, (SIMCLR, "pretrain.weights=shipped"), PRETRAINS),
    **dict.fromkeys(("pretrain.batch_size", "pretrain.checkpoint_interval"), (8, (), PRETRAINS)),
    **dict.fromkeys(("pretrain.learning_rate", "pretrain.temperature", "pretrain.stain_jitter", "pretrain.color_jitter",
                     "pretrain.min_crop_scale"), (0.5, (SIMCLR, "pretrain.weights=shipped"), PRETRAINS)),
    **dict.fromkeys(("classify.models.*.learning_rate", "classify.models.*.synthetic_fraction"),
                    (0.5, LINEAR, ("cnn",))),
    "classify.batch_size": (8, FROZEN, ()),
    **dict.fromkeys(("classify.weight_decay", "classify.ema_decay"), (0.5, FROZEN, ())),
    "classify.optimizer": ("sgd", FROZEN, ()),
    "classify.models.*.multi_depth": (True, ("resnet34",), ("efficientnet_lite0",)),
    "classify.models.*.filter_synthetic": (False, ("cnn",), ("cnn", "classify.models.cnn.synthetic_fraction=0.1")),
    "classify.models.*.weights": ("imagenet", ("resnet34",), ("resnet50",)),
    "classify.models.*.extra_features": ("projected_discriminator", ("resnet_table1",), ("gan_resnet",)),
    "classify.models.*.input_size": (64, ("resnet34",), ("efficientnet_lite0",)),
    "learning_curve.synthetic_fraction": (0.3, (REAL,), ()),
    "learning_curve.num_synthetic": (64, (REAL,), ()),
    "learning_curve.gan_steps": (64, (REAL,), ("learning_curve.arms=[selected]",)),
    "ablation.model": ("resnet50", (), (LEVELS,)),
    "ablation.epochs": (7, (), (LEVELS,)),
    "ablation.seeds": ([5], (), (LEVELS,)),
    "ablation.activation": ("gelu", (), (LEVELS,)),
    "ablation.normalization": ("group", (), (LEVELS,)),
    "ablation.dropout": (0.5, (), (LEVELS,)),
    "evaluate.test_crops": ("ten", (), ("classify.crop_size=40",)),
    "evaluate.explained_class": ("benign", ("evaluate.num_explained_patches=0",), ()),
    "cross_validation.epochs": (7, (), ("cross_validation.models=[cnn]",)),
}  # fmt: skip


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


def test_every_setting_is_read_or_refused(plain):
    keys = leaves(Experiment)
    assert len(keys) == len(set(keys)) > 100
    assert set(keys) == {*ALWAYS, *CASES}
    assert not set(ALWAYS) & set(CASES)
    assert [key for key in ALWAYS if find_rule(key.replace("*", "cnn"))] == []
    assert {key for rule in RULES for key in rule.keys} == set(CASES)
    for key, (value, unread, read) in CASES.items():
        with pytest.raises(InputError) as error:
            load(plain, key, value, unread)
        full_key = key.replace("*", unread[0]) if key.startswith(MODEL) else key
        for words in (f"{plain}: {full_key}: ", "has no effect: ", f"Leave it out ({full_key}=null), or "):
            assert words in str(error.value), key
        setting = dict(given_settings(load(plain, key, value, read)))
        assert setting[key.replace("*", read[0]) if key.startswith(MODEL) else key] is not None


def test_a_refusal_names_the_value_and_the_remedy(plain):
    with pytest.raises(InputError, match=r"data\.split_dir: here has no effect: .*set data\.protocol=official"):
        experiment.load(plain, ("data.split_dir=here",))
    with pytest.raises(InputError, match=r"classify\.models\.cnn\.filter_synthetic: false has no effect"):
        experiment.load(plain, ("classify.models={cnn: {filter_synthetic: false}}",))
    with pytest.raises(InputError, match=r"finetune_extra_features: true needs extra_features"):
        experiment.load(plain, ("classify.models={cnn: {finetune_extra_features: true}}",))
    with pytest.raises(InputError, match=r"cnn\.extra_features: projected_discriminator has no effect"):
        experiment.load(
            plain, ("classify.models={cnn: {finetune_extra_features: true, extra_features: projected_discriminator}}",)
        )


def test_pretrained_weights_may_be_read_by_an_ablation_variant_alone(plain):
    settings = (JOINED, "classify.models={gan_resnet: {}}", "ablation.model=gan_resnet", "pretrain.weights=shipped")
    assert experiment.load(plain, settings).pretrain.weights == "shipped"


def test_a_classifier_may_be_given_with_all_its_settings(plain):
    default_settings = json.dumps(Classifier().model_dump(mode="json"))
    loaded = experiment.load(plain, (f"classify.models={{cnn: {default_settings}}}",))
    assert loaded.classify.models == {"cnn": Classifier()}


def test_null_resets_a_setting_of_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ndata: {name: idc, num_folds: 4, eval_sources: a*}\ntranslate: {steps: 5, base_channels: 8}\n"
    )
    with pytest.raises(InputError, match=r"data\.num_folds: 4 has no effect"):
        experiment.load(str(path), ("data.protocol=official",))
    settings = experiment.load(str(path), ("data.protocol=official", "data.num_folds=null", "data.eval_sources="))
    assert (settings.data.num_folds, settings.data.eval_sources) == (5, None)
    with pytest.raises(InputError, match=r"translate\.base_channels: 8 has no effect: translate\.steps is 0"):
        experiment.load(str(path), ("translate.steps=0",))
    assert experiment.load(str(path), ("translate=null",)).translate.base_channels == 24
    with pytest.raises(InputError, match=r"unknown key data\.foldz"):
        experiment.load(str(path), ("data.foldz=null",))


def test_variants_and_overrides_are_accepted():
    idc = experiment.load("idc")
    assert len(ablation.list_variants(idc)) == 1 + sum(map(len, idc.ablation.variants.values()))
    assert with_overrides(idc, {"data.protocol": "kfold"}, "here").data.protocol == "kfold"


def test_shipped_experiments_set_nothing_without_effect():
    for name in experiment_files.list_all():
        settings = dict(given_settings(experiment.load(name)))
        assert set(yaml.safe_load(experiment_files.find(name).read_text())) == {key.split(".")[0] for key in settings}
