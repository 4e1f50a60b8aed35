import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from bcgan import cli, experiment, renamed, runs
from bcgan.classify import calibration
from bcgan.classify.scoring import predict_probabilities
from bcgan.errors import InputError
from bcgan.experiment import Experiment
from bcgan.models import weights
from bcgan.predict import check, export, formats
from bcgan.predict import model as models
from bcgan.preprocess import store
from bcgan.slides.scale import ModelScale
from tests.conftest import write_png


def test_the_exported_network_says_what_the_runs_own_says(finished, model, patches):
    assert model.card.training_data["networks"] == ["gan_resnet-seed0"]
    own = weights.cast_to_float32(weights.load_model(finished / "runs/tiny/classify/gan_resnet-seed0.keras"))
    expected = calibration.to_logits(calibration.apply(model.card.calibration, predict_probabilities(own, patches, 8)))
    said = calibration.to_logits(model.probabilities(patches))
    assert np.abs(said - expected).max() < 0.1 * np.ptp(expected)  # half precision rounds


def test_the_cards_figures_are_those_of_the_exported_network(finished, model):
    own = store.load(finished / "runs/tiny/preprocess")
    rows = own.role_indices("test")
    index = own.index.iloc[rows].reset_index(drop=True)
    labels = index["label"].to_numpy()
    alone = model.probabilities(own.images[rows]), model.predict(own.images[rows]).threshold
    near = [np.zeros(len(rows)), np.zeros(len(rows))]
    for patient in index.groupby("patient").indices.values():
        given = own.images[rows][patient], index[["x", "y"]].to_numpy()[patient]
        near[0][patient], near[1][patient] = model.probabilities(*given), model.predict(*given).threshold
    said = {"test": alone, "test_neighbours": near}
    assert set(model.card.metrics) == set(said)
    for name, (probability, threshold) in said.items():
        figures = {metric: one["value"] for metric, one in model.card.metrics[name].items()}
        assert figures["roc_auc"] == pytest.approx(roc_auc_score(labels, probability), abs=0.05)  # 5 of 100 pairs
        # The run scored in bfloat16, so that patches at the threshold may fall on its other side.
        at_threshold = np.abs(probability - threshold) < 0.02
        allowed = 0.5 * sum((at_threshold & (labels == label)).sum() / (labels == label).sum() for label in (0, 1))
        assert figures["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(labels, probability >= threshold), abs=allowed + 1e-6
        )


def without_litert(card, folder, patches):
    return card.model_copy(update={"sha256": {name: runs.hash_file(folder / name) for name in models.FILES}})


def test_a_classifier_trained_on_everyone_says_so(finished, exported, tmp_path, monkeypatch, eagerly):
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    cache, times = Path("runs/tiny/cache/export"), []
    monkeypatch.setattr(check, "CHECK_PATCHES", 16)
    for left in ("model/.part/classifier.keras", "model/reference_cnn.keras"):  # by one that was killed
        path = tmp_path / "work" / left
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half of one")
    for spoil, asked in ((False, ["--format", "litert", "--format", "savedmodel"]), (False, []), (True, [])):
        if not asked:  # LiteRT's files are held against Keras the first time
            monkeypatch.setattr(export, "card_with_litert", without_litert)
        if spoil:
            next(cache.glob("*/gan_resnet-seed0.keras")).write_bytes(b"damaged")
        with pytest.raises(SystemExit) as stop:
            cli.main(["export", "tiny.yaml", "--out", "model", "--all-patients", *asked])
        assert stop.value.code == 0
        models.load("model")  # other formats leave what the card names as it is, and do not outlive it
        names = (*formats.FORMAT_FILES.values(), formats.TABLE)
        written = [formats.FORMAT_FILES[kind] for kind in ("savedmodel", "litert")] + [formats.TABLE]
        assert [name for name in names if Path("model", name).exists()] == (written if asked else [])
        assert not Path("model/.part").exists()
        (network,) = cache.glob("*/gan_resnet-seed0.keras")
        times.append(network.stat().st_mtime_ns)
    assert times[0] == times[1] < times[2]  # what is up to date is not trained again
    before, after = models.load(exported).card, models.load("model").card
    assert (after.training_data["patients"], after.training_data["patches"]) == (8, 80)
    assert before.training_data["patients"] == 4
    assert (before.calibration, before.thresholds, before.metrics) == (
        after.calibration,
        after.thresholds,
        after.metrics,
    )
    assert before.sha256["classifier.keras"] != after.sha256["classifier.keras"]
    assert "validation_roc_auc" not in network.with_suffix(".jsonl").read_text()


@pytest.mark.parametrize(("size", "microns"), [(50, 4.0), (75, 8 / 3)])
def test_the_scale_is_that_of_the_patches_as_they_were_learnt(size, microns):
    index = pd.DataFrame({"width": [50, 50], "height": [50, 33]})  # a narrow one, of a slide's edge
    asked = experiment.load("idc", (f"data.size={size}",), "/nowhere")
    scale = export.model_scale(asked, index, size)
    assert (scale.size, scale.image_size) == (size, (50, 50))
    assert scale.mpp == pytest.approx(microns) == 4 * scale.downsample


def prepare_images(folder: Path, sizes: list[tuple[int, int]], **data) -> Experiment:
    """Two images of each size, (height, width), in folders of patients; the experiment on them, preprocessed."""
    rng = np.random.default_rng(0)
    for patient, (height, width) in enumerate(sizes):
        for label in (0, 1):
            image = rng.integers(0, 200, (height, width, 3), dtype=np.uint8)
            write_png(folder / f"raw/p{patient}/{label}/a.png", image)
    asked = Experiment(name="other", data={"name": "patient_folder", "dir": [folder / "raw"]} | data)
    (folder / "run/preprocess").mkdir(parents=True)
    store.build(asked, folder / "run/preprocess")
    return asked


def test_a_card_says_which_explanations_passed_and_on_which_network(tmp_path):
    tiny = Experiment(name="tiny", data={"name": "idc"})
    assert export._explanation_tests(tiny, tmp_path) == {}

    def area(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.03, "high": value + 0.03}

    results = {
        "classifier": "cnn", "seed": 1, "patches": 96, "random_map": {"deletion": area(0.84), "insertion": area(0.84)},
        "occlusion": {"deletion": area(0.68), "insertion": area(0.90)},
        "grad_cam": {"deletion": area(0.70), "insertion": area(0.86)},  # within the noise's interval by insertion
        "integrated_gradients": {"deletion": area(0.82), "insertion": area(0.90)},  # and by deletion
    }  # fmt: skip
    (tmp_path / "evaluate").mkdir()
    runs.write_json(tmp_path / "evaluate/explanations.json", results)
    card = export._explanation_tests(tiny, tmp_path)
    assert card["explanations"] == {"occlusion": True, "grad_cam": False, "integrated_gradients": False}
    assert card["explained_network"] == "cnn, seed 1, of tiny"


def test_images_of_no_known_scale_are_not_exported(tmp_path):
    asked = prepare_images(tmp_path, [(60, 80)] * 5 + [(40, 80)])
    with pytest.raises(InputError, match="images of several sizes, 40 to 60 pixels a side, each resized to 50 pixels"):
        export.export(asked, tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize(("sizes", "image_size"), [([(60, 80)] * 6, (80, 60)), ([(60, 80)] * 5 + [(60, 60)], None)])
def test_the_scale_of_a_users_own_images_is_what_they_say_of_it(tmp_path, sizes, image_size):
    for mpp, expected in ((None, None), (0.5, 0.6)):
        asked = prepare_images(tmp_path / str(mpp), sizes, mpp=mpp)
        index = store.load(tmp_path / f"{mpp}/run/preprocess").index
        export.check_one_scale(asked, index)
        scale = export.model_scale(asked, index, 50)
        assert scale == ModelScale(50, expected and pytest.approx(expected), image_size, 1.2)


def test_a_folder_of_other_files_is_no_place_for_an_export(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "tiny.yaml", "--out", str(tmp_path / "mine")])
    assert stop.value.code == 2
    assert "mine has other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_files_that_say_something_else_are_not_written(exported, model, patches, tmp_path, monkeypatch):
    folder = shutil.copytree(exported, tmp_path / "copy")
    monkeypatch.setattr(export, "write_litert", lambda folder: None)  # they lie there
    monkeypatch.setattr(export, "_max_deviation", lambda one, expected: (formats.MAX_DEVIATION * 2, 0))
    card = export.card_with_litert(model.card, folder, patches)
    assert card.litert_max_abs_error is None
    assert not list(folder.glob("*.tflite"))
    assert set(card.sha256) == set(models.FILES)


def test_a_model_of_an_earlier_version_loads(exported, tmp_path):
    """Its card and its files have the names of then."""
    old = shutil.copytree(exported, tmp_path / "old")
    card = runs.read_json(old / models.CARD)
    files = {new: name for name, new in renamed.MODEL_FILES.items()}
    for new, name in files.items():
        if (old / new).exists():
            (old / new).rename(old / name)
    names = {new: name for name, new in renamed.CARD.items()}
    for part in ("thresholds", "spatial_context_thresholds"):
        if card[part]:
            card[part] = {"threshold": card[part]["malignant"], "abstain": card[part]["abstain_range"]}
    card["sha256"] = {files.get(name, name): digest for name, digest in card["sha256"].items()}
    runs.write_json(old / models.CARD, {names.get(key, key): value for key, value in card.items()} | {"bfloat16": None})
    assert not (old / "reference_cnn.keras").exists()
    patches = np.full((2, 50, 50, 3), (200, 120, 180), np.uint8)
    for engine in ("keras", "auto"):
        before, after = (models.load(folder, engine) for folder in (exported, old))
        assert after.card == before.card
        np.testing.assert_array_equal(after.predict(patches).verdict, before.predict(patches).verdict)
