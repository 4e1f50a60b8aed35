import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from bcgan import cli, experiment, renamed, runs
from bcgan.classify import calibration, linear
from bcgan.classify.scoring import predict_probabilities
from bcgan.errors import InputError
from bcgan.experiment import Experiment
from bcgan.models import weights
from bcgan.predict import check, engines, export, formats
from bcgan.predict import model as models
from bcgan.preprocess import store
from bcgan.slides.scale import ModelScale
from tests.conftest import NUM_VIEWS, write_png


def test_the_exported_network_gives_the_probabilities_of_the_run(finished, model, patches):
    assert model.card.training_data["networks"] == ["gan_resnet-seed0"]
    run_network = weights.cast_to_float32(weights.load_model(finished / "runs/tiny/classify/gan_resnet-seed0.keras"))
    uncalibrated = predict_probabilities(run_network, patches, NUM_VIEWS)
    expected = calibration.to_logits(calibration.apply(model.card.calibration, uncalibrated))
    logits = calibration.to_logits(model.probabilities(patches))
    assert np.abs(logits - expected).max() < 0.1 * np.ptp(expected)  # half precision rounds


def test_the_cards_figures_are_those_of_the_exported_network(finished, model):
    stored = store.load(finished / "runs/tiny/preprocess")
    rows = stored.role_indices("test")
    index = stored.index.iloc[rows].reset_index(drop=True)
    labels = index["label"].to_numpy()
    alone = model.probabilities(stored.images[rows]), model.predict(stored.images[rows]).threshold
    near = [np.zeros(len(rows)), np.zeros(len(rows))]
    for patient in index.groupby("patient").indices.values():
        inputs = stored.images[rows][patient], index[["x", "y"]].to_numpy()[patient]
        near[0][patient], near[1][patient] = model.probabilities(*inputs), model.predict(*inputs).threshold
    predicted = {"test": alone, "test_neighbours": near}
    assert set(model.card.metrics) == set(predicted)
    for name, (probability, threshold) in predicted.items():
        figures = {metric: estimate["value"] for metric, estimate in model.card.metrics[name].items()}
        assert figures["roc_auc"] == pytest.approx(roc_auc_score(labels, probability), abs=0.05)  # 5 of 100 pairs
        # The run scored in bfloat16: patches at the threshold may fall on its other side.
        at_threshold = np.abs(probability - threshold) < 0.02
        allowed = 0.5 * sum((at_threshold & (labels == label)).sum() / (labels == label).sum() for label in (0, 1))
        assert figures["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(labels, probability >= threshold), abs=allowed + 1e-6
        )


def train_nothing(network, data, recipe, path: Path) -> None:
    """Write a network as it is, in place of its training."""
    weights.save_model(network, path)


def cache_result(function):
    """Return a function that calls another once, and returns that result whatever its arguments are."""
    results = []
    return lambda *arguments: results[0] if results else results.append(function(*arguments)) or results[0]


def test_a_classifier_trained_on_all_patients_states_it(finished, exported, tmp_path, monkeypatch, eagerly):
    def take_litert(card, folder, patches):
        """Take the files of another network: their conversion takes long."""
        for name in engines.LITERT_FILES:
            shutil.copy(exported / name, folder)
        names = (*models.FILES, *engines.LITERT_FILES)
        return card.model_copy(update={"sha256": {name: runs.hash_file(folder / name) for name in names}})

    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    cache, times, digests = Path("runs/tiny/cache/export"), [], []
    monkeypatch.setattr(check, "CHECK_PATCHES", 16)
    monkeypatch.setattr(export, "TTA_VIEWS", NUM_VIEWS)
    monkeypatch.setattr(export, "card_with_litert", take_litert)
    monkeypatch.setattr(export, "_build_card", cache_result(export._build_card))  # three exports of one run
    for left in ("model/.part/classifier.keras", "model/reference_cnn.keras"):  # by an export that was killed
        path = tmp_path / "work" / left
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half of one")
    for spoil, options in ((False, ["--format", "litert", "--format", "savedmodel"]), (False, []), (True, [])):
        if spoil:
            next(cache.glob("*/gan_resnet-seed0.keras")).write_bytes(b"damaged")
            monkeypatch.setattr(linear, "fit", train_nothing)
        with pytest.raises(SystemExit) as stop:
            cli.main(["export", "tiny.yaml", "--out", "model", "--all-patients", *options])
        assert stop.value.code == 0
        # Other formats do not change files of the card, and the next export removes them.
        digests.append(models.load("model").card.sha256["classifier.keras"])
        names = (*formats.FORMAT_FILES.values(), formats.TABLE)
        written = [formats.FORMAT_FILES[kind] for kind in ("savedmodel", "litert")] + [formats.TABLE]
        assert [name for name in names if Path("model", name).exists()] == (written if options else [])
        assert not Path("model/.part").exists()
        (network,) = cache.glob("*/gan_resnet-seed0.keras")
        times.append(network.stat().st_mtime_ns)
        if options:
            assert "validation_roc_auc" not in network.with_suffix(".jsonl").read_text()
    assert times[0] == times[1] < times[2]  # a network that is up to date is not trained again
    before, after = models.load(exported).card, models.load("model").card
    assert (after.training_data["patients"], after.training_data["patches"]) == (8, 80)
    assert before.training_data["patients"] == 4
    assert (before.calibration, before.thresholds, before.metrics) == (
        after.calibration,
        after.thresholds,
        after.metrics,
    )
    assert before.sha256["classifier.keras"] not in digests


@pytest.mark.parametrize(("size", "microns"), [(50, 4.0), (75, 8 / 3)])
def test_the_scale_is_that_of_the_training_patches(size, microns):
    index = pd.DataFrame({"width": [50, 50], "height": [50, 33]})  # a narrow patch at the edge of a slide
    config = experiment.load("idc", (f"data.size={size}",), "/nowhere")
    scale = export.model_scale(config, index, size)
    assert (scale.size, scale.image_size) == (size, (50, 50))
    assert scale.mpp == pytest.approx(microns) == 4 * scale.downsample


def prepare_images(folder: Path, sizes: list[tuple[int, int]], **data) -> Experiment:
    """Write and preprocess two images of each size, (height, width), in folders of patients; return the experiment."""
    rng = np.random.default_rng(0)
    for patient, (height, width) in enumerate(sizes):
        for label in (0, 1):
            image = rng.integers(0, 200, (height, width, 3), dtype=np.uint8)
            write_png(folder / f"raw/p{patient}/{label}/a.png", image)
    config = Experiment(name="other", data={"name": "patient_folder", "dir": [folder / "raw"]} | data)
    (folder / "run/preprocess").mkdir(parents=True)
    store.build(config, folder / "run/preprocess")
    return config


def test_a_card_states_which_explanations_passed_and_on_which_network(tmp_path):
    tiny = Experiment(name="tiny", data={"name": "idc"})
    assert export._explanation_tests(tiny, tmp_path) == {}

    def area(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.03, "high": value + 0.03}

    results = {
        "classifier": "cnn", "seed": 1, "patches": 96, "random_map": {"deletion": area(0.84), "insertion": area(0.84)},
        "occlusion": {"deletion": area(0.68), "insertion": area(0.90)},
        "grad_cam": {"deletion": area(0.70), "insertion": area(0.86)},  # by insertion within the random interval
        "integrated_gradients": {"deletion": area(0.82), "insertion": area(0.90)},  # by deletion too
    }  # fmt: skip
    (tmp_path / "evaluate").mkdir()
    runs.write_json(tmp_path / "evaluate/explanations.json", results)
    card = export._explanation_tests(tiny, tmp_path)
    assert card["explanations"] == {"occlusion": True, "grad_cam": False, "integrated_gradients": False}
    assert card["explained_network"] == "cnn, seed 1, of tiny"


def test_images_of_no_known_scale_are_not_exported(tmp_path):
    config = prepare_images(tmp_path, [(60, 80)] * 5 + [(40, 80)])
    with pytest.raises(InputError, match="images of several sizes, 40 to 60 pixels a side, each resized to 50 pixels"):
        export.export(config, tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize(("sizes", "image_size"), [([(60, 80)] * 6, (80, 60)), ([(60, 80)] * 5 + [(60, 60)], None)])
def test_the_scale_of_user_images_follows_data_mpp(tmp_path, sizes, image_size):
    for mpp, expected in ((None, None), (0.5, 0.6)):
        config = prepare_images(tmp_path / str(mpp), sizes, mpp=mpp)
        index = store.load(tmp_path / f"{mpp}/run/preprocess").index
        export.check_one_scale(config, index)
        scale = export.model_scale(config, index, 50)
        assert scale == ModelScale(50, expected and pytest.approx(expected), image_size, 1.2)


def test_an_export_into_a_folder_of_other_files_is_refused(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "tiny.yaml", "--out", str(tmp_path / "mine")])
    assert stop.value.code == 2
    assert "mine has other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_litert_files_that_deviate_are_not_written(exported, model, patches, tmp_path, monkeypatch):
    folder = shutil.copytree(exported, tmp_path / "copy")
    monkeypatch.setattr(export, "write_litert", lambda folder: None)  # the files exist already
    monkeypatch.setattr(export, "_max_deviation", lambda candidate, expected: (formats.MAX_DEVIATION * 2, 0))
    card = export.card_with_litert(model.card, folder, patches)
    assert card.litert_max_abs_error is None
    assert not list(folder.glob("*.tflite"))
    assert set(card.sha256) == set(models.FILES)


def test_a_model_of_an_earlier_version_loads(exported, tmp_path):
    """The names of its files and the keys of its card are those of that version."""
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
