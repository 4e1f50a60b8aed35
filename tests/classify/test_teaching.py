import keras
import numpy as np
import pandas as pd
import pytest

from bcgan import experiment, stages
from bcgan.artifacts import Cache, StageRun
from bcgan.classify import calibration, linear, teaching, train
from bcgan.classify.scoring import predict_probabilities
from bcgan.data.rows import ImageRows
from bcgan.errors import InputError
from bcgan.models import weights
from bcgan.models.classifier import build_classifier
from bcgan.preprocess.store import Store
from bcgan.settings import Classifier

TEACHERS = (
    "classify.models={cnn: {}, student: {distillation_fraction: 0.5}}",
    "classify.teachers=[cnn]",
    "classify.seeds=[0,1]",
)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 50, 50, 3), dtype=np.uint8)
ROLES = np.repeat(["train", "validation", "unlisted", "unlisted_other", "test"], 12)


def store_of(roles) -> Store:
    return Store(ImageRows(IMAGES), pd.DataFrame({"role": roles, "label": np.arange(60) % 2}))


def test_a_label_is_the_teachers_calibrated_mean_and_no_label_is_looked_at(tmp_path):
    settings, odds = experiment.load("phantom", TEACHERS), []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        network = build_classifier("cnn")
        weights.save_model(network, tmp_path / f"cnn-seed{seed}.keras")
        odds.append(calibration.to_logits(predict_probabilities(network, IMAGES, settings.evaluate.tta_views)))
    found = teaching.distilled_patches(settings, store_of(ROLES), tmp_path)
    np.testing.assert_array_equal(found.images, IMAGES[24:48])
    joint = calibration.to_probabilities(np.mean(odds, axis=0))
    expected = calibration.apply(calibration.fit(joint[12:24], np.arange(12) % 2), joint[24:48])
    np.testing.assert_allclose(found.labels, expected, rtol=1e-4)
    other = store_of(ROLES)
    other.index.loc[24:47, "label"] = 1 - other.index.loc[24:47, "label"]
    np.testing.assert_array_equal(teaching.distilled_patches(settings, other, tmp_path).labels, found.labels)


def test_without_patients_on_no_list_there_is_nothing_to_teach(tmp_path):
    with pytest.raises(InputError, match="with data.protocol=kfold every patient is in"):
        teaching.distilled_patches(
            experiment.load("phantom", TEACHERS), store_of(np.roll(["train", "test"] * 30, 1)), tmp_path
        )


def test_that_there_is_nothing_to_teach_is_said_before_a_teacher_is_trained(finished, tmp_path):
    (tmp_path / "preprocess").symlink_to(finished / "runs/tiny/preprocess")
    (tmp_path / "classify").mkdir()
    cache = Cache(tmp_path, "classify")
    run = StageRun(experiment.load("phantom", TEACHERS), tmp_path, tmp_path / "classify", {}, cache)
    with pytest.raises(InputError, match="with data.protocol=kfold every patient is in"):
        stages.classify(run)
    assert not list((tmp_path / "classify").iterdir())


def test_a_student_learns_what_its_teachers_say(tmp_path):
    """Real patches say nothing here; what is taught is that bright means malignant, with a probability of 0.9."""
    bright = np.arange(200) % 2
    made = np.clip(RNG.normal(90 + 80 * bright[:, None, None, None], 20, (200, 50, 50, 3)), 0, 255).astype(np.uint8)
    real = train.Patches(made[:64], np.repeat([0, 1], 32))
    more = train.Patches(made, np.where(bright, 0.9, 0.1).astype(np.float32))
    settings = experiment.load("phantom", ("classify.ema_decay=0.5", "classify.batch_size=32"))
    keras.utils.set_random_seed(0)
    path = tmp_path / "student.keras"
    recipe = train.Recipe(settings.classify, Classifier(epochs=6, distillation_fraction=0.75))
    train.train(build_classifier("cnn"), train.TrainingData(real, more), recipe, path)
    said = predict_probabilities(weights.load_model(path), made, 1)
    assert said[bright == 1].mean() - said[bright == 0].mean() > 0.3


def test_teachers_are_trained_first(finished, tmp_path, monkeypatch):
    trained, taught = [], train.Patches(IMAGES[:4], np.float32([0.1, 0.9, 0.5, 0.2]))

    def stand_in(network, data, recipe, path):
        trained.append((path.stem, data.extra is taught))
        path.write_bytes(b"trained")
        path.with_suffix(".jsonl").touch()

    monkeypatch.setattr(linear, "fit", stand_in)
    monkeypatch.setattr(teaching, "distilled_patches", lambda *_: taught)
    monkeypatch.setattr(teaching, "unlisted_rows", lambda *_: np.arange(4))
    monkeypatch.setattr("bcgan.models.efficientnet_lite.transfer_network", lambda size, **_: keras.Sequential(
        [keras.Input((size, size, 3)), keras.layers.GlobalAveragePooling2D()]))  # fmt: skip
    monkeypatch.chdir(finished)
    models = "classify.models={student: {distillation_fraction: 0.5}, cnn: {}}"
    settings = experiment.load("tiny.yaml", (models, "classify.teachers=[cnn]"))
    (tmp_path / "classify").mkdir()
    for name in ("preprocess", "gan", "features"):
        (tmp_path / name).symlink_to(finished / "runs/tiny" / name)
    stages.classify(StageRun(settings, tmp_path, tmp_path / "classify", {}, Cache(tmp_path, "classify")))
    assert trained == [("cnn-seed0", False), ("student-seed0", True)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            ("classify.models={cnn: {}, student: {distillation_fraction: 0.5}}",),
            "student.distillation_fraction: 0.5 needs teachers",
        ),
        (
            (*TEACHERS, "classify.teachers=[resnet34]"),
            "teachers: resnet34 must be one of the models with distillation_fraction 0",
        ),
        (
            (*TEACHERS, "classify.teachers=[student]"),
            "teachers: student must be one of the models with distillation_fraction 0",
        ),
        (
            ("classify.models={cnn: {distillation_fraction: 0.5, synthetic_fraction: 0.1}}",),
            "excludes synthetic_fraction",
        ),
    ],
)
def test_settings_that_cannot_be_are_named(wrong, words):
    with pytest.raises(InputError, match=words):
        experiment.load("phantom", wrong)
