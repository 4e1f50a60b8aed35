import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from bcgan import experiment, machine, progress, runs, stages
from bcgan.artifacts import Cache, StageRun
from bcgan.classify import pretraining
from bcgan.data.rows import ImageRows
from bcgan.errors import InputError, WorkError
from bcgan.models import weights
from bcgan.models.classifier import build_for_run
from bcgan.models.efficientnet_lite import efficientnet_lite, get_backbone, has_weights
from bcgan.preprocess.store import Store
from bcgan.settings import Pretrain
from tests.digest import digest

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 50, 50, 3), dtype=np.uint8)
TINY = Pretrain(steps=4, batch_size=4, checkpoint_interval=2)
ROLES = ("train", "train", "validation", "test", "unlisted", "unlisted_other")
with_weights = pytest.mark.skipif(not has_weights("lite0"), reason="EfficientNet-Lite0's weights are not installed")


def store_of(patients=range(6)) -> Store:
    index = pd.DataFrame({"role": ROLES, "patient": [str(patient) for patient in patients]})
    return Store(ImageRows(IMAGES), pd.concat([index] * 2, ignore_index=True))


def settings(**changes):
    return experiment.load("idc", (f"pretrain={changes}",))


def test_the_loss_is_small_where_views_of_a_patch_are_similar_and_other_views_are_not():
    views = tf.constant(RNG.normal(size=(6, 8)), tf.float32)
    loss, accuracy = pretraining.nt_xent_loss(tf.concat([views, 3 * views], 0), 0.05)
    assert float(accuracy) == 1
    assert float(loss) < 0.05
    loss, accuracy = pretraining.nt_xent_loss(tf.concat([views, views[::-1]], 0), 0.05)
    assert float(accuracy) == 0
    assert float(loss) > 1


def test_the_loss_is_that_of_its_definition():
    rows = RNG.normal(size=(6, 4))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = []
    for row in range(6):
        odds = np.exp(unit @ unit[row] / 0.2)
        expected.append(-np.log(odds[(row + 3) % 6] / (odds.sum() - odds[row])))
    loss = pretraining.nt_xent_loss(tf.constant(rows, tf.float32), 0.2)[0]
    np.testing.assert_allclose(float(loss), np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize(("unlisted", "expected"), [(False, {"0", "1"}), (True, {"0", "1", "4", "5"})])
def test_pretraining_reads_no_patch_of_a_validation_or_test_patient(tmp_path, monkeypatch, unlisted, expected):
    trained_on = []
    monkeypatch.setattr(pretraining, "train", lambda images, *arguments: trained_on.append(images))
    pretraining.pretrain(settings(steps=1, include_unlisted=unlisted), store_of(), tmp_path, False)
    rows = [row for row in range(12) if str(row % 6) in expected]
    np.testing.assert_array_equal(trained_on[0], IMAGES[rows])
    assert runs.read_json(tmp_path / "pretraining_patients.json") == {
        "patches": len(rows),
        "patients": sorted(expected),
    }
    assert pretraining.pretraining_patients(tmp_path) == expected


def test_weights_pretrained_on_a_test_patient_are_refused(tmp_path):
    pretrained = runs.read_json(pretraining.SHIPPED_SIMCLR / "pretraining_patients.json")["patients"]
    patients = [*pretrained[:2], "none", "other", *pretrained[2:4]]
    pretraining.pretrain(settings(weights="shipped"), store_of(patients), tmp_path, False)
    assert (tmp_path / "simclr.keras").read_bytes() == (pretraining.SHIPPED_SIMCLR / "simclr.keras").read_bytes()
    with pytest.raises(
        InputError, match=rf"was trained on 1 patients \(first: {pretrained[5]}\).*pretrain.weights=none"
    ):
        pretraining.pretrain(
            settings(weights="shipped"),
            store_of([*pretrained[:2], "none", pretrained[5], *pretrained[2:4]]),
            tmp_path,
            False,
        )


@with_weights
def test_a_killed_training_ends_with_the_same_weights(tmp_path, killed, starts, eagerly):
    def train(folder):
        folder.mkdir(exist_ok=True)
        machine.configure(experiment.load("phantom", ("profile=repro",)))
        pretraining.train(IMAGES, TINY, 5, folder, False)
        return digest(weights.load_model(folder / "simclr.keras").variables)

    expected = train(tmp_path / "whole")
    with killed(2):
        train(tmp_path / "killed")
    assert train(tmp_path / "killed") == expected
    assert starts == [0, 0, 2]
    assert [line["step"] for line in progress.read_jsonl(tmp_path / "killed/log.jsonl")] == [0, 3]


@with_weights
def test_pretraining_learns_to_find_the_other_view(tmp_path):
    colours = RNG.integers(40, 256, (12, 1, 1, 3))
    images = np.clip(colours + RNG.normal(0, 10, IMAGES.shape), 0, 255).astype(np.uint8)
    pretraining.train(images, Pretrain(steps=14, batch_size=12, stain_jitter=0.1), 0, tmp_path, False)
    lines = progress.read_jsonl(tmp_path / "log.jsonl")
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3


@with_weights
def test_a_nan_stops_with_the_remedy(tmp_path, monkeypatch):
    nonsense = (float("nan"), 0.0)
    monkeypatch.setattr(pretraining, "make_step", lambda *arguments: lambda step, images: nonsense)
    with pytest.raises(WorkError, match=r"NaN or infinite at step 1.*pretrain\.learning_rate"):
        pretraining.train(IMAGES, TINY, 5, tmp_path, False)
    assert not list(tmp_path.glob("*.keras"))


@with_weights
def test_the_classifier_starts_from_the_pretrained_weights(tmp_path):
    (tmp_path / "pretrain").mkdir()
    with pytest.raises(InputError, match="simclr.keras, the self-supervised weights, is missing"):
        build_for_run("efficientnet_lite0_simclr", tmp_path)
    keras.utils.set_random_seed(3)
    pretrained = efficientnet_lite("lite0", weights=False)
    weights.save_float16(pretrained, tmp_path / "pretrain" / "simclr.keras")
    backbone = get_backbone(get_backbone(build_for_run("efficientnet_lite0_simclr", tmp_path)))
    for values, expected in zip(backbone.get_weights(), pretrained.get_weights(), strict=True):
        np.testing.assert_allclose(values, expected, atol=1e-3, rtol=1e-3)
    weights.save_float16(efficientnet_lite("lite2", weights=False), tmp_path / "pretrain" / "simclr.keras")
    with pytest.raises(InputError, match="has the weights of another network"):
        build_for_run("efficientnet_lite0_simclr", tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pretrain.weights=none",), "gan_resnet needs pretrained weights"),
        (("pretrain.steps=5",), "weights: shipped excludes steps: 5"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        experiment.load("idc", overrides)


def test_the_stage_writes_nothing_where_pretraining_is_off(tmp_path):
    (tmp_path / "pretrain").mkdir()
    cache = Cache(tmp_path, "pretrain")
    stages.pretrain(StageRun(experiment.load("phantom"), tmp_path, tmp_path / "pretrain", {}, cache))
    assert not list((tmp_path / "pretrain").iterdir())
