"""The search of settings: its trials, that it resumes, what it reports, and that it never reads test patients."""

import shutil

import numpy as np
import pytest

from bcgan import cli, experiment, runs
from bcgan.errors import InputError, WorkError
from bcgan.evaluate import ablation, tuning

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: requirements-tune.txt")
SPACE = 'tune={"model": "cnn", "epochs": [1, 3], "batch_size": [32, 64], "loss": ["bce", "weighted_bce"]}'


@pytest.fixture
def trained(monkeypatch) -> list:
    """The trials that were trained; the ROC AUC falls with the distance of the learning rate from 0.001."""
    tried = []

    def train_variant(run, variant, seed):
        settings = variant.experiment
        learning_rate = settings.classify.models["cnn"].learning_rate
        tried.append((learning_rate, settings.classify.batch_size, settings.ablation.epochs, seed))
        labels = np.repeat([0, 1], 50)
        noise = abs(np.log(learning_rate / 0.001)) * np.random.default_rng(0).normal(size=100)
        return {"validation_labels": labels, "validation": 1 / (1 + np.exp(-(labels + noise)))}  # no test patches

    monkeypatch.setattr(ablation, "train_variant", train_variant)
    return tried


def load(*overrides):
    return experiment.load("phantom", (SPACE, *overrides))


def test_the_search_stays_in_its_space(trained, tmp_path):
    results = tuning.tune(load(), tmp_path, {}, 12)
    assert (results["baseline"], results["baseline_state"]) == (None, "outside the space")  # its 8 epochs
    assert len(trained) == len(results["trials"]) == 12
    assert {row["settings"]["batch_size"] for row in results["trials"]} == {32, 64}
    assert all(1 <= row["settings"]["epochs"] <= 3 for row in results["trials"])
    values = [row["roc_auc"] for row in results["trials"]]
    assert values == sorted(values, reverse=True)
    assert results["best"]["classify.models.cnn.learning_rate"] == results["trials"][0]["settings"]["learning_rate"]
    text = tuning.describe(results)
    assert "12 trials of cnn" in text
    assert "classify.models.cnn.learning_rate=" in text


def test_the_first_trial_is_the_experiment_if_the_space_has_it(trained, tmp_path):
    wide = 'tune={"model": "cnn", "epochs": [1, 9], "stain_jitter": [0, 1]}'
    results = tuning.tune(experiment.load("phantom", (wide,)), tmp_path, {}, 2)
    assert trained[0] == (0.001, 64, 8, 0)
    assert (results["baseline"], results["baseline_state"]) == (1.0, "measured")
    # Changed settings are tried next, if a trial is left.
    changed = experiment.load("phantom", (wide, "classify.models.cnn={epochs: 8, learning_rate: 0.003}"))
    results = tuning.tune(changed, tmp_path, {}, 2)
    assert (results["baseline"], results["baseline_state"]) == (None, "not tried")
    assert "the experiment as it is: not tried" in tuning.describe(results)
    tuning.tune(changed, tmp_path, {}, 2)  # nothing is left to do, and nothing is enqueued twice
    results = tuning.tune(changed, tmp_path, {}, 4)
    assert trained[2] == (0.003, 64, 8, 0) and trained.count(trained[2]) == 1
    assert results["baseline_state"] == "measured" and results["baseline"] < 1.0


def test_more_trials_continue_a_search_and_another_space_begins_a_new_one(trained, tmp_path):
    tuning.tune(load(), tmp_path, {}, 3)
    tuning.tune(load(), tmp_path, {}, 5)
    assert len(trained) == len(set(trained)) == 5  # a resumed search proposes new settings
    assert len(tuning.tune(load(), tmp_path, {}, 2)["trials"]) == 5  # nothing is left to do
    assert len(trained) == 5
    tuning.tune(load("tune.epochs=[1,2]"), tmp_path, {}, 2)
    assert len(trained) == 7


def test_an_interrupted_trial_is_repeated(trained, tmp_path, monkeypatch):
    train_variant = ablation.train_variant
    tuning.tune(load(), tmp_path, {}, 2)

    def interrupt(run, variant, seed):
        train_variant(run, variant, seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "train_variant", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(load(), tmp_path, {}, 3)
    monkeypatch.setattr(ablation, "train_variant", train_variant)
    results = tuning.tune(load(), tmp_path, {}, 3)
    assert trained[2] == trained[3]
    assert len(results["trials"]) == 3


def test_trials_that_diverge_are_counted_and_named(trained, tmp_path, monkeypatch):
    train_variant = ablation.train_variant

    def diverge(run, variant, seed):
        arrays = train_variant(run, variant, seed)
        if len(trained) % 2:
            raise WorkError("the loss is NaN")
        return arrays

    monkeypatch.setattr(ablation, "train_variant", diverge)
    results = tuning.tune(load(), tmp_path, {}, 4)
    assert [row["roc_auc"] is None for row in results["trials"]] == [False, False, True, True]
    trained.clear()
    wide = 'tune={"model": "cnn", "epochs": [1, 9], "stain_jitter": [0, 1]}'
    results = tuning.tune(experiment.load("phantom", (wide,)), tmp_path, {}, 2)  # the first diverges
    assert (results["baseline"], results["baseline_state"]) == (None, "diverged")
    monkeypatch.setattr(ablation, "train_variant", lambda *_: (_ for _ in ()).throw(WorkError("NaN")))
    with pytest.raises(WorkError, match=r"tune\.learning_rate"):
        tuning.tune(load("tune.epochs=[2,2]"), tmp_path, {}, 1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.learning_rate=[0.1,0.01]", ["tune", "learning_rate", "0.1 is above 0.01"]),
        ("tune.model=colour", ["tune.model"]),
        ('tune={"model": "simclr_linear"}', ["only fits a head"]),
        ("tune.batch_size=[]", ["tune.batch_size"]),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(override, words):
    with pytest.raises(InputError) as error:
        experiment.load("phantom", (override,))
    assert all(word in str(error.value) for word in words)


def test_a_search_of_a_run_is_kept_and_reported(finished, tmp_path, monkeypatch, capsys, undrawn):
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path / "run")
    space = 'tune={"model": "cnn", "epochs": [1, 1], "batch_size": [16], "loss": ["bce"]}'
    for trials in ("1", "2"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["tune", "tiny.yaml", "--set", space, "--trials", trials])
        assert stop.value.code == 0
    assert "validation ROC AUC" in capsys.readouterr().out
    root = tmp_path / "run" / "runs" / "tiny"
    results = runs.read_json(root / "tune" / "tune.json")
    assert len(results["trials"]) == 2
    assert tuning.read_results(root)["best"] == results["best"]
    runs.write_json(root / "tune" / "tune.json", results | {"inputs": {"preprocess/patches.npy": "other"}})
    assert tuning.read_results(root) is None
    runs.write_json(root / "tune" / "tune.json", results)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "tiny.yaml", "--out", "report"])
    assert stop.value.code == 0
    value = f"{results['trials'][0]['roc_auc']:.4f}"
    for name in ("report.html", "report.md"):
        text = (tmp_path / "run" / "report" / name).read_text("utf-8")
        assert "Search of settings" in text
        assert value in text
    reported = runs.read_json(tmp_path / "run" / "report" / "results.json")["tuning"]
    assert reported["best"] == results["best"]


def test_the_stage_that_must_be_finished_follows_from_the_classifier():
    assert tuning.last_stage(load()) == "preprocess"
    assert tuning.last_stage(load("classify.models.cnn.synthetic_fraction=0.1")) == "features"
    assert tuning.last_stage(load("tune.model=gan_resnet")) == "pretrain"
