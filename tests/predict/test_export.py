import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from bcgan import cli, experiment, runs
from bcgan.classify import calibration
from bcgan.classify.scoring import probabilities
from bcgan.errors import InputError
from bcgan.experiment import Experiment
from bcgan.models import weights
from bcgan.predict import export, formats, images
from bcgan.predict import model as models
from bcgan.preprocess import store
from tests.conftest import write_png


def test_the_exported_network_says_what_the_runs_own_says(finished, model, patches):
    assert model.card.trained["networks"] == ["gan_resnet-seed0"]
    own = weights.in_float32(weights.load_model(finished / "runs/tiny/classify/gan_resnet-seed0.keras"))
    expected = calibration.log_odds(calibration.apply(model.card.calibration, probabilities(own, patches, 8)))
    said = calibration.log_odds(model.predict(patches).probability)
    assert np.abs(said - expected).max() < 0.1 * np.ptp(expected)  # half precision rounds


def test_the_cards_figures_are_those_of_the_exported_network(finished, model):
    own = store.load(finished / "runs/tiny/preprocess")
    rows = own.rows("test")
    index = own.index.iloc[rows].reset_index(drop=True)
    labels, alone = index["label"].to_numpy(), model.predict(own.images[rows])
    near = [np.zeros(len(rows)), np.zeros(len(rows), int)]
    for patient in index.groupby("patient").indices.values():
        judged = model.predict(own.images[rows][patient], index[["x", "y"]].to_numpy()[patient])
        near[0][patient], near[1][patient] = judged.probability, judged.called
    said = {"test": (alone.probability, alone.called), "test_neighbours": near}
    assert set(model.card.figures) == set(said)
    for name, (probability, called) in said.items():
        figures = {metric: one["value"] for metric, one in model.card.figures[name].items()}
        assert figures["roc_auc"] == pytest.approx(roc_auc_score(labels, probability), abs=0.02)
        assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, called), abs=0.06)


def without_litert(card, folder, patches):
    return card.model_copy(update={"sha256": {name: runs.hash_file(folder / name) for name in models.FILES}})


def test_a_classifier_trained_on_everyone_says_so(finished, exported, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    network, times = Path("runs/tiny/export/gan_resnet-seed0.keras"), []
    monkeypatch.setattr(images, "CHECKED", 16)
    for left in ("model/.part/classifier.keras", "model/referee.keras"):  # by one that was killed
        path = tmp_path / "work" / left
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half of one")
    for spoil, asked in ((False, ["--format", "litert", "--format", "savedmodel"]), (False, []), (True, [])):
        if not asked:  # LiteRT's files are held against Keras the first time
            monkeypatch.setattr(export, "card_with_litert", without_litert)
        if spoil:
            network.write_bytes(b"another run's")
        with pytest.raises(SystemExit) as stop:
            cli.main(["export", "tiny.yaml", "--out", "model", "--everyone", *asked])
        assert stop.value.code == 0
        models.load("model")  # other formats leave what the card names as it is, and do not outlive it
        found = [Path("model", name).exists() for name in (*formats.KINDS.values(), formats.TABLE)]
        assert found == [bool(asked), bool(asked), False, False, bool(asked)]
        assert not Path("model/.part").exists()
        times.append(network.stat().st_mtime_ns)
    assert times[0] == times[1] < times[2]  # what is whole and current is not trained again
    before, after = models.load(exported).card, models.load("model").card
    assert (after.trained["patients"], after.trained["patches"]) == (8, 80)
    assert before.trained["patients"] == 4
    assert (before.calibration, before.calls, before.figures) == (after.calibration, after.calls, after.figures)
    assert before.sha256["classifier.keras"] != after.sha256["classifier.keras"]
    assert "validation_roc_auc" not in Path(f"runs/tiny/export/{after.trained['networks'][0]}.jsonl").read_text()


def test_what_learnt_from_changed_patches_is_not_exported(tmp_path):
    """`bcgan predict` changes none; what only left patches out is another matter."""
    asked = experiment.load("phantom", ("preprocess.clahe=true",))
    with pytest.raises(InputError, match=r"phantom learnt from patches prepared with preprocess\.clahe=true"):
        export.export(asked, tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError):  # goes on, to a run that is not there
        export.export(experiment.load("phantom", ("preprocess.audit.blank=drop",)), tmp_path, tmp_path / "out")


@pytest.mark.parametrize(("size", "microns"), [(50, 4.0), (75, 8 / 3)])
def test_the_scale_is_that_of_the_patches_as_they_were_learnt(size, microns):
    asked = experiment.load("idc", (f"data.size={size}",), "/nowhere")
    assert export._microns(asked) == pytest.approx(microns)
    assert export._microns(experiment.load("phantom")) is None


def test_images_of_no_known_scale_are_not_exported(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        image = rng.integers(0, 200, (60, 80, 3), dtype=np.uint8)
        write_png(tmp_path / f"raw/p{number // 2}/{number % 2}/a.png", image)
    asked = Experiment(name="other", data={"name": "patient_folder", "dir": [tmp_path / "raw"]})
    (tmp_path / "run/preprocess").mkdir(parents=True)
    store.build(asked, tmp_path / "run/preprocess")
    with pytest.raises(InputError, match="learnt from images of other sizes, brought to 50 pixels each"):
        export.export(asked, tmp_path / "run", tmp_path / "out")


def test_a_folder_of_other_files_is_no_place_for_an_export(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "tiny.yaml", "--out", str(tmp_path / "mine")])
    assert stop.value.code == 2
    assert "mine holds other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_files_that_say_something_else_are_not_written(exported, model, patches, tmp_path, monkeypatch):
    folder = shutil.copytree(exported, tmp_path / "copy")
    monkeypatch.setattr(export, "write_litert", lambda folder: None)  # they lie there
    monkeypatch.setattr(export, "_apart", lambda one, expected: (formats.FAITHFUL * 2, 0))
    card = export.card_with_litert(model.card, folder, patches)
    assert card.litert is None
    assert not list(folder.glob("*.tflite"))
    assert set(card.sha256) == set(models.FILES)
