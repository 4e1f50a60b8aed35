import json
import shutil

import numpy as np
import pytest

from bcgan import cli, experiment, variation
from bcgan.errors import InputError
from bcgan.evaluate import factors, trials

LEVELS = {
    "loss": {"focal": {"classify.loss": "focal"}},
    "CLAHE": {"on": {"preprocess.clahe": True}},
    "network": {"GAN alone": {"factors.network": "gan_only"}},
    "dropout": {"half": {"classify.models": {"cnn": {"epochs": 1}}, "factors.network": "cnn", "factors.dropout": 0.5}},
}


def with_levels(levels, *more):
    return experiment.load("phantom", (f"factors.levels={json.dumps(levels)}", *more))


def test_levels_change_what_they_name_and_nothing_else():
    planned = factors.levels(with_levels(LEVELS))
    assert [(level.factor, level.name) for level in planned] == [
        (factors.BASELINE, ""), ("loss", "focal"), ("CLAHE", "on"), ("network", "GAN alone"), ("dropout", "half"),
    ]  # fmt: skip
    base = planned[0].experiment
    assert [variation.differences(base, level.experiment) for level in planned[:4]] == [
        [], ['classify.loss="focal"'], ["preprocess.clahe=true"], ['factors.network="gan_only"'],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classify.lost": "focal"}, r"loss\.focal: no setting classify\.lost"),
        ({"classify.loss": "fo"}, r"focal.*'fo'"),
        ({"factors.network": "gan_only", "factors.dropout": 0.5}, r"loss\.focal: gan_only starts from weights"),
        (
            {"classify.loss": "focal", "gan.augment": False},
            r"loss\.focal: no training of this stage reads gan\.augment",
        ),
        ({"evaluate.resamples": 20}, r"loss\.focal: no training of this stage reads evaluate\.resamples"),
        ({"classify.loss": "weighted_bce"}, r"loss\.focal: it changes no training of this stage"),
        ({"classify.models.resnet_table1.epochs": 9}, "it changes no training"),  # factors.epochs counts
        ({"classify.models.resnet50.rate": 0.1}, "it changes no training"),  # another network's
        ({"factors.seeds": [7]}, "it changes no training"),
    ],
)
def test_an_unknown_level_is_named(changes, words):
    with pytest.raises(InputError, match=words):
        factors.levels(with_levels({"loss": {"focal": changes}}))


def test_levels_whose_files_would_be_the_same_are_refused():
    alike = {"focal 1": {"classify.loss": "focal"}, "focal_1": {"classify.loss": "bce"}}
    with pytest.raises(InputError, match=r"loss\.focal_1: its files would be another level's"):
        factors.levels(with_levels({"loss": alike}))


def test_every_choice_is_trained_once_and_compared(finished, tmp_path, monkeypatch, capsys):
    work = tmp_path / "work"
    shutil.copytree(finished, work)
    monkeypatch.chdir(work)
    more = ["--set", "factors={network: gan_resnet, epochs: 1, seeds: [0], levels: " + json.dumps(LEVELS) + "}"]
    monkeypatch.setattr(trials, "train", broken_once(trials.train))
    arguments = ["run", "tiny.yaml", *more, "--until", "factors"]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    found = json.loads((work / "runs/tiny/factors/factors.json").read_text())
    # The one that diverged is named and left out; the others are kept.
    assert [(one["factor"], one["level"]) for one in found["levels"]] == [
        (factors.BASELINE, ""), ("CLAHE", "on"), ("network", "GAN alone"), ("dropout", "half"),
    ]  # fmt: skip
    assert "loss focal is left out: it diverged" in capsys.readouterr().err
    assert found["levels"][0]["differences"] is None
    assert set(found["levels"][1]["differences"]["roc_auc"]) == {"value", "low", "high", "p"}
    assert not (work / "runs/tiny/factors/loss-focal/preprocess").exists()
    assert (work / "runs/tiny/factors/CLAHE-on/preprocess/patches.npy").exists()
    assert (work / "runs/tiny/factors/network-GAN_alone/seed0.npz").exists()


def test_only_trainings_of_both_sides_are_compared(tmp_path):
    """A seed that diverged on one side is left out of the other; without the experiment as it is, none is compared."""
    asked = with_levels({"loss": {"focal": {"classify.loss": "focal"}}}, "factors.seeds=[0,1]")
    planned = factors.levels(asked)
    labels, patients = np.tile([0, 1], 40), np.repeat(np.arange(10), 8)
    rng = np.random.default_rng(0)
    good, bad = labels + rng.normal(size=80), rng.normal(size=80)

    def write(level, seed, scores):
        place = tmp_path / level.folder
        place.mkdir(exist_ok=True)
        sides = {"test_labels": labels, "validation_labels": labels, "test_patients": patients, "validation": scores}
        np.savez(place / f"seed{seed}.npz", test=scores, test_ids=np.arange(80).astype(str), **sides)

    write(planned[1], 0, good)
    alone = factors.summarise(asked, planned, tmp_path)["levels"]
    assert [one["differences"] for one in alone] == [None]
    write(planned[0], 0, good)
    write(planned[0], 1, bad)
    found = factors.summarise(asked, planned, tmp_path)["levels"][1]
    assert found["differences"]["roc_auc"]["value"] == 0.0
    assert found["figures"]["roc_auc"]["value"] > 0.7


def broken_once(train):
    from bcgan.errors import WorkError

    def run(network, real, made, validation, settings, *rest, **more):
        if settings.loss == "focal":
            raise WorkError("it diverged")
        return train(network, real, made, validation, settings, *rest, **more)

    return run
