import keras
import numpy as np
import pytest
import tensorflow as tf

from bcgan import experiment, machine, progress
from bcgan.classify import losses
from bcgan.classify import train as classify
from bcgan.classify.scoring import predict_probabilities
from bcgan.errors import WorkError
from bcgan.models import weights
from bcgan.models.classifier import build_classifier
from bcgan.settings import Classifier, Classify
from tests.digest import digest

RNG = np.random.default_rng(0)
LABELS = np.arange(48) % 2
# The classes can be learned: malignant patches are darker on one side.
IMAGES = RNG.integers(100, 200, (48, 32, 32, 3), dtype=np.uint8)
IMAGES[LABELS == 1, :, :16] //= 3
REAL = classify.Patches(IMAGES, LABELS)
SYNTHETIC = classify.Patches(IMAGES[::-1].copy(), LABELS[::-1].copy())
SETTINGS, MODEL = Classify(batch_size=8, ema_decay=0.5), Classifier(epochs=3, learning_rate=3e-3)


def train(path, synthetic=None, settings=SETTINGS, model=MODEL):
    path.parent.mkdir(exist_ok=True)
    machine.configure(experiment.load("phantom", ("profile=repro",)))
    keras.utils.set_random_seed(1)
    data = classify.TrainingData(REAL, synthetic, REAL)
    classify.train(build_classifier("cnn", 32), data, classify.Recipe(settings, model, seed=1), path)
    return weights.load_model(path)


def test_losses_against_their_definitions():
    logits, labels = RNG.normal(size=20).astype(np.float32), (np.arange(20) < 5).astype(int)
    p = 1 / (1 + np.exp(-logits))
    each = -np.where(labels, np.log(p), np.log(1 - p))
    benign, malignant = losses.class_weights((1 - labels.mean(), labels.mean()))
    assert (benign * 15, malignant * 5) == pytest.approx((10, 10))
    weighted = each * np.where(labels, malignant, benign)
    focal = each * np.where(labels, 1 - p, p) ** 2
    for kind, expected in (("bce", each), ("weighted_bce", weighted), ("focal", focal)):
        loss = losses.batch_loss(tf.constant(logits), tf.constant(labels), kind, (benign, malignant))
        assert float(loss) == pytest.approx(expected.mean(), rel=1e-5)


def test_a_training_learns_and_keeps_the_best_epoch(tmp_path):
    network = train(tmp_path / "cnn-seed1.keras", model=Classifier(epochs=8, learning_rate=3e-3))
    lines = progress.read_jsonl(tmp_path / "cnn-seed1.jsonl")
    best = max(line["validation_roc_auc"] for line in lines)
    assert best > 0.9
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(LABELS, classify.make_predict_fn(network)(IMAGES)) == pytest.approx(best)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, killed, starts, eagerly, share):
    model = MODEL.replace(synthetic_fraction=share)
    expected = digest(train(tmp_path / "a" / "cnn.keras", SYNTHETIC, model=model).variables)
    with killed(2):
        train(tmp_path / "b" / "cnn.keras", SYNTHETIC, model=model)
    assert digest(train(tmp_path / "b" / "cnn.keras", SYNTHETIC, model=model).variables) == expected
    assert [start > 0 for start in starts] == [False, False, True]
    assert [line["epoch"] for line in progress.read_jsonl(tmp_path / "b" / "cnn.jsonl")] == [0, 1, 2]


def test_a_small_batch_keeps_a_real_patch(tmp_path):
    """Nine tenths of four patches, rounded, would be four."""
    model = MODEL.replace(synthetic_fraction=0.9, epochs=1)
    settings = SETTINGS.replace(batch_size=4)
    assert train(tmp_path / "cnn.keras", SYNTHETIC, settings, model).name == "cnn_classifier"


def test_a_diverging_loss_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "batch_loss", lambda logits, *rest: tf.reduce_mean(logits) * float("nan"))
    with pytest.raises(WorkError, match=r"cnn.*NaN or infinite in epoch 1.*rate"):
        train(tmp_path / "cnn.keras")
    assert not (tmp_path / "cnn.keras").exists()


def test_a_network_with_nan_outputs_is_named(tmp_path, monkeypatch):
    """The losses of an epoch do not show it: they are from before its last update."""
    monkeypatch.setattr(classify, "make_predict_fn", lambda network: lambda images: np.full(len(images), np.nan))
    with pytest.raises(WorkError, match=r"cnn.*NaN or infinite in epoch 1.*rate"):
        train(tmp_path / "cnn.keras")


def test_a_step_is_traced_once(tmp_path, monkeypatch):
    steps, original = [], classify.make_step
    monkeypatch.setattr(classify, "make_step", lambda *arguments: steps.append(original(*arguments)) or steps[-1])
    train(tmp_path / "cnn-seed1.keras", SYNTHETIC, model=Classifier(epochs=2, synthetic_fraction=0.25))
    assert [step.experimental_get_tracing_count() for step in steps] == [1]


def test_losses_of_three_classes_against_their_definitions():
    logits, labels = RNG.normal(size=(30, 3)).astype(np.float32), np.repeat([0, 1, 2], (5, 10, 15)).astype(np.int32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    each = -np.log(p[np.arange(30), labels])
    weights = losses.class_weights(np.bincount(labels) / 30)
    assert np.multiply(weights, (5, 10, 15)) == pytest.approx([10, 10, 10])
    for kind, expected in (
        ("bce", each), ("weighted_bce", each * np.array(weights)[labels]), ("focal", each * (1 - np.exp(-each)) ** 2),
    ):  # fmt: skip
        loss = losses.batch_loss(tf.constant(logits), tf.constant(labels), kind, weights)
        assert float(loss) == pytest.approx(expected.mean(), rel=1e-5)


def test_a_classifier_of_three_classes_learns_them(tmp_path):
    labels = np.arange(60) % 3
    images = np.full((60, 32, 32, 3), 128, np.uint8) + RNG.integers(0, 40, (60, 32, 32, 3), dtype=np.uint8)
    images[np.arange(60), :, :, labels] //= 2
    patches = classify.Patches(images, labels)
    settings = Classify(batch_size=20, stain_jitter=0, color_jitter=0, ema_decay=0.5)
    recipe = classify.Recipe(settings, Classifier(epochs=6, learning_rate=3e-3))
    path = tmp_path / "cnn.keras"
    classify.train(
        build_classifier("cnn", 32, num_classes=3), classify.TrainingData(patches, None, patches), recipe, path
    )
    probabilities = predict_probabilities(weights.load_model(path), images, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (probabilities.argmax(1) == labels).all()
    assert progress.read_jsonl(path.with_suffix(".jsonl"))[-1]["validation_roc_auc"] == pytest.approx(1)


def test_ten_crops_are_the_corners_the_center_and_their_mirror_images():
    network = build_classifier("cnn", 32)
    images = RNG.integers(0, 256, (3, 41, 41, 3), dtype=np.uint8)
    single = [
        predict_probabilities(network, np.ascontiguousarray(part), 1)
        for top, left in ((0, 0), (0, 9), (9, 0), (9, 9), (4, 4))
        for part in (
            images[:, top : top + 32, left : left + 32],
            images[:, top : top + 32, left : left + 32][:, :, ::-1],
        )
    ]
    np.testing.assert_allclose(predict_probabilities(network, images, 1, "ten"), np.mean(single, 0), atol=1e-6)
    np.testing.assert_allclose(predict_probabilities(network, images, 1), single[8], atol=1e-6)
