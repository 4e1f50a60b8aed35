import json
import shutil

import numpy as np
import pandas as pd
import pytest

from bcgan import cli, experiment
from bcgan.data.records import UNKNOWN
from bcgan.errors import InputError, WorkError
from bcgan.evaluate import folds
from bcgan.preprocess import store

SETTINGS = experiment.load("phantom", ("evaluate.resamples=100", "data.folds=4"))


def index_of(patients: int, patches: int) -> pd.DataFrame:
    count = patients * patches
    return pd.DataFrame({
        "id": [f"patch{number}" for number in range(count)],
        "patient": np.repeat(np.arange(patients), patches).astype(str),
        "label": np.arange(count) % 2, "given": "", "source": "one", "path": "one",
    })  # fmt: skip


def test_every_patch_is_tested_once_and_only_the_random_split_tears_patients():
    index = index_of(12, 6)
    for split, torn in (("patient_split", False), ("random_split", True)):
        dealt = np.array([folds.roles(SETTINGS, index, split, fold) for fold in range(4)])
        assert ((dealt == "test").sum(0) == 1).all()
        assert ((dealt == "validation").sum(0) == 1).all()
        apart = index.groupby(pd.Series(dealt[0]).where(dealt[0] == "test", "other"))["patient"].unique()
        assert bool(set(apart["test"]) & set(apart["other"])) is torn


def test_fewer_patients_than_folds_name_the_fold():
    with pytest.raises(InputError, match="folds: patient_split, fold 1 of 4: data.folds: 4 folds need as many"):
        folds.roles(SETTINGS, index_of(3, 6), "patient_split", 0)


def test_networks_that_met_every_fold_are_refused():
    with pytest.raises(InputError, match="gan_resnet holds a discriminator that met patients of every fold"):
        experiment.load("phantom", ("folds.networks=[gan_resnet]",))


def test_so_is_what_met_these_patients_without_labels(tmp_path):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "seen.json").write_text('{"patches": 9, "patients": ["3", "none"]}')
    settings = experiment.load("phantom", ("folds.networks=[simclr]", "pretrain.weights=shipped"))
    patches = store.Store(np.zeros((24, 50, 50, 3), np.uint8), index_of(8, 3))
    with pytest.raises(InputError, match=r"simclr has met 1 of these patients \(first: 3\)"):
        folds.evaluate(settings, patches, tmp_path / "folds", False)


def test_students_are_refused():
    settings = (
        "classify.models={cnn: {}, student: {taught: 0.5}}",
        "classify.teachers=[cnn]",
        "folds.networks=[student]",
    )
    with pytest.raises(InputError, match=r"folds\.networks: student needs teachers"):
        experiment.load("phantom", settings)


def test_folds_of_different_scales_are_pooled_by_their_own_calibration():
    """Each fold's log odds are shifted and stretched: uncalibrated, the pool would be far from the truth's AUC."""
    rng = np.random.default_rng(0)
    labels, patients = rng.integers(0, 2, 800), np.repeat(np.arange(40), 20).astype(str)
    odds = 2 * labels - 1 + rng.normal(0, 1, 800)
    dealt, found = np.arange(800) % 4, []
    for fold in range(4):
        rows, chosen = np.flatnonzero(dealt == fold), np.flatnonzero(dealt == (fold + 1) % 4)
        scale, shift = (0.5, 1, 2, 3)[fold], (-6, 4, 0, 3)[fold]
        said = {name: 1 / (1 + np.exp(-(scale * odds[one] + shift))) for name, one in
                (("test", rows), ("validation", chosen))}  # fmt: skip
        found.append(said | {"test_rows": rows, "validation_rows": chosen})
    index = pd.DataFrame({"id": "patch", "patient": patients, "label": labels, "x": UNKNOWN, "y": UNKNOWN})
    summary = folds.summarise(SETTINGS, dict.fromkeys(folds.SPLITS, found), index)
    plain = folds.metrics.measure(labels, odds, 0.0, np.ones((1, 800)))["roc_auc"][0]
    assert summary["patient_split"]["roc_auc"]["value"] == pytest.approx(plain, abs=0.01)
    assert summary["inflation"]["roc_auc"]["value"] == 0
    assert (summary["patients"], summary["patches"]) == (40, 800)
    assert folds.NEIGHBOURS not in summary
    # A region of malignant patches a slide: neighbours know more, unless they are another slide's.
    index = index.assign(id=[f"{patient}_x0_y0_" for patient in patients], x=50 * np.arange(800), y=labels * 1000)
    near = folds.summarise(SETTINGS, dict.fromkeys(folds.SPLITS, found), index)
    assert near["patient_split"] == summary["patient_split"]
    assert near[folds.NEIGHBOURS]["roc_auc"]["value"] > plain + 0.02
    apart = index.assign(id=[f"{number}_x0_y0_" for number in range(800)])
    apart = folds.summarise(SETTINGS, dict.fromkeys(folds.SPLITS, found), apart)
    assert apart[folds.NEIGHBOURS]["roc_auc"]["value"] == pytest.approx(plain, abs=0.01)


def test_a_stopped_cross_validation_goes_on(finished, tmp_path, monkeypatch, capsys):
    """The trainings are stood in for: what they are is held by the tests of `factors`, which run the same ones."""
    work, trained = tmp_path / "work", []

    def stand_in(path, network, real, made, held, settings, own, views, seed, xla, key, beside, **more):
        if len(trained) == 5 and "stopped" not in trained:
            trained.append("stopped")
            raise WorkError("stopped")
        assert (made, own.synthetic, own.epochs, network.name) == (None, 0, 2, "cnn_classifier")
        assert not set(beside["test_rows"]) & set(beside["validation_rows"])
        trained.append(path.name)
        np.savez(path, key=key, **beside, **{role: (side.labels + 0.5) / 2 for role, side in held.items()})

    shutil.copytree(finished, work)
    monkeypatch.chdir(work)
    monkeypatch.setattr(folds.trials, "run", stand_in)
    arguments = ["run", "tiny.yaml", "--set", "folds={networks: [cnn], epochs: 2}", "--until", "folds"]
    for code in (1, 0, 0):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == code
    assert len(trained) == 2 * 4 + 1  # two splits of four folds, each once, and the stop
    assert "folds: skipped, whole and current" in capsys.readouterr().err
    found = json.loads((work / "runs/tiny/folds/folds.json").read_text())
    assert found["networks"]["cnn"]["patches"] == len(store.load(work / "runs/tiny/preprocess").index)
    assert found["networks"]["cnn"]["patient_split"]["roc_auc"]["value"] == 1


def test_a_network_more_trains_that_network_alone(finished, tmp_path, monkeypatch):
    """What the stage left is kept where a trial's own settings and files are the same, and only there."""
    work, trained = tmp_path / "work", []

    def stand_in(path, network, real, made, held, settings, own, views, seed, xla, key, beside, **more):
        trained.append(network.name)
        np.savez(path, key=key, **beside, **{role: (side.labels + 0.5) / 2 for role, side in held.items()})

    shutil.copytree(finished, work)
    monkeypatch.chdir(work)
    monkeypatch.setattr(folds.trials, "run", stand_in)
    both = {"cnn_classifier", "resnet_table1_classifier"}
    for networks, epochs, more, expected in (
        ("cnn", 2, [], {"cnn_classifier"}),
        ("cnn,resnet_table1", 2, [], {"resnet_table1_classifier"}),
        ("cnn,resnet_table1", 2, ["--force", "folds"], both),
        ("resnet_table1,cnn", 3, [], both),
        ("cnn", 2, [], set()),  # of three settings ago
        ("cnn", 4, ["--force", "folds"], {"cnn_classifier"}),
    ):
        trained.clear()
        settings = f"folds={{networks: [{networks}], epochs: {epochs}}}"
        with pytest.raises(SystemExit) as stop:
            cli.main(["run", "tiny.yaml", "--set", settings, "--until", "folds", *more])
        assert stop.value.code == 0
        assert set(trained) == expected
        assert len(trained) == 2 * 4 * len(expected)
    assert not (work / "runs/tiny/folds.before").exists()


def test_a_damaged_trial_is_trained_again(tmp_path):
    folder, made = tmp_path / "folds", []
    folder.mkdir()

    def train() -> None:
        made.append("trained")
        np.savez_compressed(folder / "one.npz", key="same", test=np.random.default_rng(0).random(1000))

    def count() -> int:
        folds.trials.once(folder / "one.npz", folder, "same", train)
        return len(made)

    assert (count(), count()) == (1, 1)
    (keeper,) = (tmp_path / "trials").iterdir()
    whole = keeper.read_bytes()
    (folder / "one.npz").unlink()
    assert count() == 1  # it is kept, whatever becomes of the stage's folder
    assert (folder / "one.npz").read_bytes() == whole
    flipped = [whole[:k] + bytes([whole[k] ^ 255]) + whole[k + 1 :] for k in range(400, 900, 50)]
    for number, damaged in enumerate([b"", whole[:2000], *flipped], 2):
        for path in (keeper, folder / "one.npz"):
            path.write_bytes(damaged)
        assert count() == number
        assert keeper.read_bytes() == (folder / "one.npz").read_bytes() == whole
