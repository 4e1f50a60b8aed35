import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from bcgan import experiment, machine, progress
from bcgan.classify import losses
from bcgan.classify import train as classify
from bcgan.data import batches
from bcgan.errors import WorkError
from bcgan.experiment import Classifier, Classify
from bcgan.models import weights
from bcgan.models.classifier import classifier
from tests.digest import digest

RNG = np.random.default_rng(0)
LABELS = np.arange(48) % 2
# A class that can be learned: malignant patches are darker on one side.
IMAGES = RNG.integers(100, 200, (48, 32, 32, 3), dtype=np.uint8)
IMAGES[LABELS == 1, :, :16] //= 3
REAL = classify.Patches(IMAGES, LABELS)
SYNTHETIC = classify.Patches(IMAGES[::-1].copy(), LABELS[::-1].copy())
GROUP = (np.arange(48) >= 40).astype(int)  # a large group and a small one
SETTINGS, OWN = Classify(batch=8, average=0.5), Classifier(epochs=3, rate=3e-3)


def train(path, synthetic=None, settings=SETTINGS, own=OWN):
    path.parent.mkdir(exist_ok=True)
    machine.start(experiment.load("phantom", ("profile=repro",)))
    keras.utils.set_random_seed(1)
    classify.train(classifier("cnn", 32), REAL, synthetic, REAL, settings, own, 1, path, xla=False)
    return weights.load_model(path)


def record_rows(monkeypatch) -> list[np.ndarray]:
    """The rows that each epoch of a training draws."""
    seen, stream = [], batches.stream

    def spy(images, labels, sampler, steps, *more):
        seen.append(np.concatenate([sampler(step) for step in steps]))
        return stream(images, labels, sampler, steps, *more)

    monkeypatch.setattr(batches, "stream", spy)
    return seen


def test_losses_against_their_definitions():
    logits, labels = RNG.normal(size=20).astype(np.float32), (np.arange(20) < 5).astype(int)
    p = 1 / (1 + np.exp(-logits))
    each = -np.where(labels, np.log(p), np.log(1 - p))
    benign, malignant = losses.class_weights(labels.mean())
    assert (benign * 15, malignant * 5) == pytest.approx((10, 10))
    weighted = each * np.where(labels, malignant, benign)
    focal = each * np.where(labels, 1 - p, p) ** 2
    for kind, expected in (("bce", each), ("weighted_bce", weighted), ("focal", focal)):
        found = losses.loss(tf.constant(logits), tf.constant(labels), kind, (benign, malignant))
        assert float(found) == pytest.approx(expected.mean(), rel=1e-5)


def test_smoothed_labels_are_labels_between_the_classes():
    logits, labels = tf.constant([-1.0, 2.0]), tf.constant([0, 1])
    smooth = losses.loss(logits, labels, "bce", (1.0, 1.0), smoothing=0.2)
    assert float(smooth) == pytest.approx(float(losses.loss(logits, tf.constant([0.1, 0.9]), "bce", (1.0, 1.0))))


def test_groups_of_patients_or_labels_have_the_same_say(tmp_path):
    index = pd.DataFrame({"patient": ["a"] * 30 + ["b"] * 10, "label": LABELS[:40]})
    assert classify.groups_of(index, SETTINGS) is None
    groups = classify.groups_of(index, SETTINGS.model_copy(update={"balance": "patient"}))
    rows = np.concatenate([batches.by_group(groups, 8, 0)(step) for step in range(250)])
    assert np.mean(rows < 30) == pytest.approx(0.5, abs=0.05)
    assert np.bincount(rows, minlength=40).min() > 10  # every patch of a group comes


def test_a_training_by_groups_draws_by_groups(tmp_path, monkeypatch):
    seen = record_rows(monkeypatch)
    classify.train(
        classifier("cnn", 32), REAL, None, None, SETTINGS, OWN, 1, tmp_path / "cnn.keras", False, groups=GROUP
    )
    assert np.mean(np.concatenate(seen) < 40) == pytest.approx(0.5, abs=0.15)


def test_rehearsal_sees_synthetic_patches_alone_and_then_none(tmp_path, monkeypatch):
    seen = record_rows(monkeypatch)
    train(tmp_path / "cnn.keras", SYNTHETIC, own=OWN.model_copy(update={"rehearsed": 2}))
    synthetic = [(rows >= len(LABELS)).mean() for rows in seen]
    assert synthetic == [1, 1, 0, 0, 0]


def test_an_epoch_of_rehearsal_is_not_what_is_kept(tmp_path, monkeypatch):
    kept = []
    for name, said in (("low", (0.1, 0.6, 0.5)), ("high", (0.9, 0.6, 0.5))):
        areas = iter(said)
        monkeypatch.setattr(classify, "_validate", lambda *_: {"validation_roc_auc": next(areas)})  # noqa: B023
        own = OWN.model_copy(update={"rehearsed": 1, "epochs": 2, "synthetic": 0.0})
        kept.append(digest(train(tmp_path / name / "cnn.keras", SYNTHETIC, own=own).variables))
    assert kept[0] == kept[1]


def test_it_learns_and_keeps_the_best_epoch(tmp_path):
    network = train(tmp_path / "cnn-seed1.keras", own=Classifier(epochs=8, rate=3e-3))
    lines = progress.read_lines(tmp_path / "cnn-seed1.jsonl")
    best = max(line["validation_roc_auc"] for line in lines)
    assert best > 0.9
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(LABELS, classify.scorer(network)(IMAGES)) == pytest.approx(best)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, killed, starts, share):
    own = OWN.model_copy(update={"synthetic": share})
    whole = digest(train(tmp_path / "a" / "cnn.keras", SYNTHETIC, own=own).variables)
    with killed(2):
        train(tmp_path / "b" / "cnn.keras", SYNTHETIC, own=own)
    assert digest(train(tmp_path / "b" / "cnn.keras", SYNTHETIC, own=own).variables) == whole
    assert [start > 0 for start in starts] == [False, False, True]
    assert [line["epoch"] for line in progress.read_lines(tmp_path / "b" / "cnn.jsonl")] == [0, 1, 2]


def test_a_small_batch_keeps_a_real_patch(tmp_path):
    """Nine tenths of four patches are four."""
    own = OWN.model_copy(update={"synthetic": 0.9, "epochs": 1})
    settings = SETTINGS.model_copy(update={"batch": 4})
    assert train(tmp_path / "cnn.keras", SYNTHETIC, settings, own).name == "cnn_classifier"


def test_a_diverging_loss_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "loss", lambda logits, *rest: tf.reduce_mean(logits) * float("nan"))
    with pytest.raises(WorkError, match=r"cnn.*no number any more in epoch 1.*rate"):
        train(tmp_path / "cnn.keras")
    assert not (tmp_path / "cnn.keras").exists()


def test_a_network_that_says_no_number_is_named(tmp_path, monkeypatch):
    """The losses of an epoch are from before its last update."""
    monkeypatch.setattr(classify, "scorer", lambda network: lambda images: np.full(len(images), np.nan))
    with pytest.raises(WorkError, match=r"cnn.*no number any more in epoch 1.*rate"):
        train(tmp_path / "cnn.keras")


def test_rehearsal_has_class_weights_of_its_own(monkeypatch):
    told = lambda logits, labels, kind, weights, smoothing: tf.reduce_sum(weights * tf.constant([1.0, 100.0]))  # noqa: E731
    monkeypatch.setattr(classify, "loss", lambda logits, *rest: 0 * tf.reduce_sum(logits) + told(logits, *rest))
    network, average = classifier("cnn", 32), classifier("cnn", 32)
    optimizer = classify.make_optimizer(network, OWN, SETTINGS, 10)
    step = classify.make_step(
        network, average, optimizer, SETTINGS, (0.5, 2.0), 0, False, rehearsal=(2, (1.0, 1.0))
    )  # fmt: skip
    given = tf.constant(IMAGES[:8]), tf.constant(LABELS[:8])
    assert [float(step(tf.constant(number, tf.int64), *given)[0]) for number in range(4)] == [101, 101, 200.5, 200.5]


def test_a_step_is_traced_once(tmp_path, monkeypatch):
    made, original = [], classify.make_step
    monkeypatch.setattr(classify, "make_step", lambda *given: made.append(original(*given)) or made[-1])
    train(tmp_path / "cnn-seed1.keras", SYNTHETIC, own=Classifier(epochs=2, synthetic=0.25))
    assert [step.experimental_get_tracing_count() for step in made] == [1]
