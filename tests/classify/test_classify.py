import keras
import numpy as np
import pytest
import tensorflow as tf

from bcgan import experiment, machine, progress
from bcgan.classify import losses
from bcgan.classify import train as classify
from bcgan.classify.scoring import predict_probabilities
from bcgan.data import batches
from bcgan.errors import WorkError
from bcgan.models import weights
from bcgan.models.classifier import build_classifier
from bcgan.settings import Classifier, Classify
from tests.digest import digest

RNG = np.random.default_rng(0)
LABELS = np.arange(48) % 2
# A class that can be learned: malignant patches are darker on one side.
IMAGES = RNG.integers(100, 200, (48, 32, 32, 3), dtype=np.uint8)
IMAGES[LABELS == 1, :, :16] //= 3
REAL = classify.Patches(IMAGES, LABELS)
SYNTHETIC = classify.Patches(IMAGES[::-1].copy(), LABELS[::-1].copy())
SETTINGS, OWN = Classify(batch_size=8, ema_decay=0.5), Classifier(epochs=3, learning_rate=3e-3)


def train(path, synthetic=None, settings=SETTINGS, own=OWN):
    path.parent.mkdir(exist_ok=True)
    machine.configure(experiment.load("phantom", ("profile=repro",)))
    keras.utils.set_random_seed(1)
    data = classify.TrainingData(REAL, synthetic, REAL)
    classify.train(build_classifier("cnn", 32), data, classify.Recipe(settings, own, seed=1), path)
    return weights.load_model(path)


def record_rows(monkeypatch) -> list[np.ndarray]:
    """The rows that each epoch of a training draws."""
    seen, stream = [], batches.make_dataset

    def spy(images, labels, sampler, steps, *more):
        seen.append(np.concatenate([sampler(step) for step in steps]))
        return stream(images, labels, sampler, steps, *more)

    monkeypatch.setattr(batches, "make_dataset", spy)
    return seen


def test_losses_against_their_definitions():
    logits, labels = RNG.normal(size=20).astype(np.float32), (np.arange(20) < 5).astype(int)
    p = 1 / (1 + np.exp(-logits))
    each = -np.where(labels, np.log(p), np.log(1 - p))
    benign, malignant = losses.class_weights((1 - labels.mean(), labels.mean()))
    assert (benign * 15, malignant * 5) == pytest.approx((10, 10))
    weighted = each * np.where(labels, malignant, benign)
    focal = each * np.where(labels, 1 - p, p) ** 2
    for kind, expected in (("bce", each), ("weighted_bce", weighted), ("focal", focal)):
        found = losses.batch_loss(tf.constant(logits), tf.constant(labels), kind, (benign, malignant))
        assert float(found) == pytest.approx(expected.mean(), rel=1e-5)


def test_it_learns_and_keeps_the_best_epoch(tmp_path):
    network = train(tmp_path / "cnn-seed1.keras", own=Classifier(epochs=8, learning_rate=3e-3))
    lines = progress.read_jsonl(tmp_path / "cnn-seed1.jsonl")
    best = max(line["validation_roc_auc"] for line in lines)
    assert best > 0.9
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(LABELS, classify.make_predict_fn(network)(IMAGES)) == pytest.approx(best)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, killed, starts, eagerly, share):
    own = OWN.replace(synthetic_fraction=share)
    whole = digest(train(tmp_path / "a" / "cnn.keras", SYNTHETIC, own=own).variables)
    with killed(2):
        train(tmp_path / "b" / "cnn.keras", SYNTHETIC, own=own)
    assert digest(train(tmp_path / "b" / "cnn.keras", SYNTHETIC, own=own).variables) == whole
    assert [start > 0 for start in starts] == [False, False, True]
    assert [line["epoch"] for line in progress.read_jsonl(tmp_path / "b" / "cnn.jsonl")] == [0, 1, 2]


def test_a_small_batch_keeps_a_real_patch(tmp_path):
    """Nine tenths of four patches are four."""
    own = OWN.replace(synthetic_fraction=0.9, epochs=1)
    settings = SETTINGS.replace(batch_size=4)
    assert train(tmp_path / "cnn.keras", SYNTHETIC, settings, own).name == "cnn_classifier"


def test_a_diverging_loss_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "batch_loss", lambda logits, *rest: tf.reduce_mean(logits) * float("nan"))
    with pytest.raises(WorkError, match=r"cnn.*NaN or infinite in epoch 1.*rate"):
        train(tmp_path / "cnn.keras")
    assert not (tmp_path / "cnn.keras").exists()


def test_a_network_that_says_no_number_is_named(tmp_path, monkeypatch):
    """The losses of an epoch are from before its last update."""
    monkeypatch.setattr(classify, "make_predict_fn", lambda network: lambda images: np.full(len(images), np.nan))
    with pytest.raises(WorkError, match=r"cnn.*NaN or infinite in epoch 1.*rate"):
        train(tmp_path / "cnn.keras")


def test_a_step_is_traced_once(tmp_path, monkeypatch):
    made, original = [], classify.make_step
    monkeypatch.setattr(classify, "make_step", lambda *given: made.append(original(*given)) or made[-1])
    train(tmp_path / "cnn-seed1.keras", SYNTHETIC, own=Classifier(epochs=2, synthetic_fraction=0.25))
    assert [step.experimental_get_tracing_count() for step in made] == [1]


def test_losses_of_three_classes_against_their_definitions():
    logits, labels = RNG.normal(size=(30, 3)).astype(np.float32), np.repeat([0, 1, 2], (5, 10, 15)).astype(np.int32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    each = -np.log(p[np.arange(30), labels])
    weights = losses.class_weights(np.bincount(labels) / 30)
    assert np.multiply(weights, (5, 10, 15)) == pytest.approx([10, 10, 10])
    for kind, expected in (
        ("bce", each), ("weighted_bce", each * np.array(weights)[labels]), ("focal", each * (1 - np.exp(-each)) ** 2),
    ):  # fmt: skip
        found = losses.batch_loss(tf.constant(logits), tf.constant(labels), kind, weights)
        assert float(found) == pytest.approx(expected.mean(), rel=1e-5)


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
