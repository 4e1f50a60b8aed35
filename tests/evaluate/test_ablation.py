import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bcgan import artifacts, cli, experiment, runs, variation
from bcgan.artifacts import Cache, StageRun
from bcgan.classify import linear
from bcgan.errors import InputError, WorkError
from bcgan.evaluate import ablation
from bcgan.variation import with_overrides

LEVELS = {
    "loss": {"focal": {"classify.loss": "focal"}},
    "CLAHE": {"on": {"preprocess.clahe": True}},
    "network": {"GAN alone": {"ablation.model": "gan_only"}},
    "dropout": {"half": {"classify.models": {"cnn": {"epochs": 1}}, "ablation.model": "cnn", "ablation.dropout": 0.5}},
}


def with_levels(levels, *overrides):
    return experiment.load("phantom", (f"ablation.variants={json.dumps(levels)}", *overrides))


def test_levels_change_what_they_name_and_nothing_else():
    planned = ablation.list_variants(with_levels(LEVELS))
    assert [(level.factor, level.name) for level in planned] == [
        (ablation.BASELINE, ""), ("loss", "focal"), ("CLAHE", "on"), ("network", "GAN alone"), ("dropout", "half"),
    ]  # fmt: skip
    base = planned[0].experiment
    assert [variation.diff_configs(base, level.experiment) for level in planned[:4]] == [
        [], ['classify.loss="focal"'], ["preprocess.clahe=true"], ['ablation.model="gan_only"'],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classify.lost": "focal"}, r"loss\.focal: no setting classify\.lost"),
        ({"classify.loss": "fo"}, r"focal.*'fo'"),
        ({"ablation.model": "gan_only", "ablation.dropout": 0.5}, r"loss\.focal: gan_only starts from weights"),
        (
            {"classify.loss": "focal", "gan.diff_augment": False},
            r"loss\.focal: no training of this stage reads gan\.diff_augment",
        ),
        (
            {"evaluate.bootstrap_samples": 20},
            r"loss\.focal: no training of this stage reads evaluate\.bootstrap_samples",
        ),
        ({"classify.loss": "weighted_bce"}, r"loss\.focal: it changes no training of this stage"),
        ({"classify.models.resnet_table1.epochs": 9}, "it changes no training"),  # ablation.epochs counts
        ({"classify.models.cnn.learning_rate": 0.1}, "it changes no training"),  # another network's
        ({"ablation.seeds": [7]}, "it changes no training"),
        ({"classify.batch": 8}, r"classify\.batch is now called classify\.batch_size"),
    ],
)
def test_an_unknown_level_is_named(changes, words):
    with pytest.raises(InputError, match=words):
        ablation.list_variants(with_levels({"loss": {"focal": changes}}))


def test_a_setting_that_frozen_classifiers_refuse_is_allowed_for_other_classifiers():
    frozen = "classify.models={simclr_linear: {}, cnn: {}, resnet_table1: {}}"
    overrides = ("pretrain.weights=shipped", "evaluate.ensemble_models=[simclr_linear]", "ablation.model=cnn")
    settings = with_levels({"loss": {"focal": {"classify.loss": "focal"}}}, frozen, *overrides)
    _, variant = ablation.list_variants(settings)
    assert variant.experiment.classify.loss == "focal"
    assert set(settings.classify.models) == {"simclr_linear", "cnn", "resnet_table1"}
    settings = with_levels({"network": {"frozen": {"ablation.model": "simclr_linear"}}}, frozen, *overrides)
    with pytest.raises(InputError, match="simclr_linear is not trained but fitted"):
        ablation.list_variants(settings)


def test_levels_whose_files_would_be_the_same_are_refused():
    variants = {"focal 1": {"classify.loss": "focal"}, "focal_1": {"classify.loss": "bce"}}
    with pytest.raises(InputError, match=r"loss\.focal_1: its files would be another variant's"):
        ablation.list_variants(with_levels({"loss": variants}))


def test_every_choice_is_trained_once_and_compared(finished, tmp_path, monkeypatch, capsys, eagerly):
    work = tmp_path / "work"
    shutil.copytree(finished, work)
    monkeypatch.chdir(work)
    options = ["--set", "ablation={model: gan_resnet, epochs: 1, seeds: [0], variants: " + json.dumps(LEVELS) + "}"]
    monkeypatch.setattr(linear, "fit", diverge_with_focal_loss(linear.fit))
    arguments = ["run", "tiny.yaml", *options, "--until", "ablation"]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    summary = json.loads((work / "runs/tiny/ablation/ablation.json").read_text())
    # The variant that diverged is named and left out; the others are kept.
    assert [(row["factor"], row["variant"]) for row in summary["variants"]] == [
        (ablation.BASELINE, ""), ("CLAHE", "on"), ("network", "GAN alone"), ("dropout", "half"),
    ]  # fmt: skip
    assert "loss focal is left out: it diverged" in capsys.readouterr().err
    assert summary["variants"][0]["differences"] is None
    assert set(summary["variants"][1]["differences"]["roc_auc"]) == {"value", "low", "high", "p", "p_floor"}
    cache = work / "runs/tiny/cache/ablation"
    assert len(list(cache.glob("preprocess-*/patches.npy"))) == 1  # of CLAHE; the others use the run's own
    assert len(list(cache.glob("network-GAN_alone-seed0-*/predictions.npz"))) == 1
    assert not list(cache.glob("loss-focal-seed0-*/predictions.npz"))


def test_only_seeds_that_both_variants_have_are_compared():
    """A seed that diverged with one variant is left out of the other."""
    settings = with_levels({"loss": {"focal": {"classify.loss": "focal"}}}, "ablation.seeds=[0,1]")
    planned = ablation.list_variants(settings)
    labels, patients = np.tile([0, 1], 40), np.repeat(np.arange(10), 8)
    rng = np.random.default_rng(0)
    good, bad = labels + rng.normal(size=80), rng.normal(size=80)

    def arrays(scores):
        return trial(labels, patients, scores, scores)

    baseline, focal = (ablation.BASELINE, ""), ("loss", "focal")
    trained = {baseline: {0: arrays(good), 1: arrays(bad)}, focal: {0: arrays(good)}}
    row = ablation.summarize(settings, planned, trained)["variants"][1]
    assert row["differences"]["roc_auc"]["value"] == 0.0
    assert row["figures"]["roc_auc"]["value"] > 0.7


def trial(labels, patients, validation, test):
    """Return the arrays of a trial with these probabilities."""
    arrays = {"validation": validation, "test": test}
    for role in ablation.HELD_OUT:
        arrays |= {f"{role}_labels": labels, f"{role}_patients": patients}
        arrays |= {f"{role}_ids": np.arange(len(labels)).astype(str)}
    return arrays


def test_a_choice_is_selected_on_validation_patients_and_scored_on_test_patients():
    """The scores on test patients do not affect the choice, and only the selected variant has them."""
    settings = with_levels({"loss": {"focal": {"classify.loss": "focal"}, "bce": {"classify.loss": "bce"}}})
    planned = ablation.list_variants(settings)
    labels, patients = np.tile([0, 1], 40), np.repeat(np.arange(10), 8)
    rng = np.random.default_rng(0)
    good, fair, bad = (labels * gain + rng.normal(size=80) for gain in (3, 1, 0))

    def summarize(focal, bce):
        finished = {
            (ablation.BASELINE, ""): {0: trial(labels, patients, fair, fair)},
            ("loss", "focal"): {0: trial(labels, patients, *focal)},
            ("loss", "bce"): {0: trial(labels, patients, *bce)},
        }
        return ablation.summarize(settings, planned, finished)

    summary = summarize((good, bad), (bad, good))
    assert [round(row["figures"]["roc_auc"]["value"], 6) for row in summary["variants"]] == [
        round(roc_auc_score(labels, scores), 6) for scores in (fair, good, bad)
    ]
    selected = summary["selected"]
    assert (selected["factor"], selected["variant"]) == ("loss", "focal")
    expected = [roc_auc_score(labels, scores) for scores in (bad, fair)]
    assert [selected[key]["roc_auc"]["value"] for key in ("figures", "baseline")] == pytest.approx(expected)
    assert selected["differences"]["roc_auc"]["value"] == pytest.approx(expected[0] - expected[1])
    assert summarize((fair, good), (bad, good))["selected"] is None


def test_a_choice_that_lacks_a_seed_is_not_selected():
    """Its score is a mean of fewer trainings, and the best score of one training is more often good by chance."""
    settings = with_levels({"loss": {"focal": {"classify.loss": "focal"}, "bce": {"classify.loss": "bce"}}})
    planned = ablation.list_variants(settings)
    labels, patients = np.tile([0, 1], 40), np.repeat(np.arange(10), 8)
    rng = np.random.default_rng(0)
    best, good, fair = (trial(labels, patients, *[labels * gain + rng.normal(size=80)] * 2) for gain in (9, 2, 1))
    finished = {
        (ablation.BASELINE, ""): {0: fair, 1: fair},
        ("loss", "focal"): {0: best},
        ("loss", "bce"): {0: good, 1: good},
    }
    selected = ablation.summarize(settings, planned, finished)["selected"]
    assert (selected["variant"], selected["seeds"]) == ("bce", 2)
    # If a variant has more seeds than the baseline, the seeds of both are compared.
    finished = {(ablation.BASELINE, ""): {0: fair}, ("loss", "focal"): {}, ("loss", "bce"): {0: good, 1: best}}
    selected = ablation.summarize(settings, planned, finished)["selected"]
    gains = [selected[key]["roc_auc"]["value"] for key in ("figures", "baseline")]
    assert selected["differences"]["roc_auc"]["value"] == pytest.approx(gains[0] - gains[1])


def test_without_a_baseline_no_variant_is_trained(finished, tmp_path, monkeypatch, capsys):
    trained = []

    def diverge(network, data, recipe, path):
        trained.append(path.stem)
        raise WorkError("it diverged")

    work = tmp_path / "work"
    shutil.copytree(finished, work)
    monkeypatch.chdir(work)
    monkeypatch.setattr(linear, "fit", diverge)
    settings = "ablation={model: gan_only, epochs: 1, seeds: [0, 1], variants: {loss: {bce: {classify.loss: bce}}}}"
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "tiny.yaml", "--set", settings, "--until", "ablation"])
    assert stop.value.code == 1
    assert "the experiment as it is diverged with every seed" in capsys.readouterr().err
    assert len(trained) == 2
    assert not (work / "runs/tiny/ablation").exists()


def diverge_with_focal_loss(train):
    def run(network, data, recipe, path):
        if recipe.classify.loss == "focal":
            raise WorkError("it diverged")
        return train(network, data, recipe, path)

    return run


def test_a_variant_s_store_depends_on_the_raw_data(tmp_path, monkeypatch):
    """Different files under the same path are different patches, whatever the settings."""
    built, baseline = [], with_levels({})
    monkeypatch.setattr(ablation.store, "build", lambda experiment, folder: built.append(1))
    variant = ablation.AblationVariant("CLAHE", "on", with_overrides(baseline, {"preprocess.clahe": True}, "here"))
    run = StageRun(baseline, tmp_path, tmp_path / "ablation", {}, Cache(tmp_path, "ablation"))
    (tmp_path / "preprocess").mkdir()
    for data in ("a", "a", "b"):
        manifest = {"settings": {}, "inputs": {"data": data}}
        runs.write_json(tmp_path / "preprocess" / artifacts.MANIFEST, manifest)
        ablation._prepared_store(run, variant)
    assert len(built) == 2
