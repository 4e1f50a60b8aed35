"""Heads that are fitted by logistic regression, and balanced patients."""

import json

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bcgan.classifiers import CLASSIFIERS
from bcgan.classify import linear, train
from bcgan.classify.scoring import predict_probabilities
from bcgan.data import batches
from bcgan.errors import WorkError
from bcgan.models import weights
from bcgan.models.classifier import build_classifier
from bcgan.models.discriminator import discriminator
from bcgan.models.gan_resnet import num_random_units
from bcgan.settings import Classifier, Classify

SIZE, COUNT = 32, 240
PLAIN = Classify(stain_jitter=0, color_jitter=0, batch_size=32)


def draw(seed: int, num_classes: int = 2) -> train.Patches:
    """Return patches whose classes differ in two colors, with noise, of ten patients."""
    rng = np.random.default_rng(seed)
    labels = np.arange(COUNT) % num_classes
    base = 120 + 20 * np.stack([labels, -labels, np.zeros(COUNT)], 1)
    images = base[:, None, None] + rng.normal(0, 18, (COUNT, 1, 1, 3)) + rng.normal(0, 30, (COUNT, SIZE, SIZE, 3))
    return train.Patches(images.clip(0, 255).astype(np.uint8), labels, np.arange(COUNT) // 24)


def make_network(trainable: bool = False, outputs: int = 1) -> keras.Model:
    """Return a classifier whose features are means of random convolutions, which may be frozen."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    inner = keras.Sequential([
        keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(12, 3, strides=2), keras.layers.BatchNormalization(),
        keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D(),
    ])  # fmt: skip
    inner.trainable = trainable
    return keras.Model(image, keras.layers.Dense(outputs, name="logit")(inner(image)))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_frozen_network_gets_the_logistic_regression_of_its_features(tmp_path, num_classes):
    """It is as good as scikit-learn's on the same features, and nothing but the head changes."""
    keras.utils.set_random_seed(0)
    network = make_network(outputs=1 if num_classes == 2 else num_classes)
    before = [variable.numpy() for variable in network.layers[1].variables]
    data = train.TrainingData(draw(0, num_classes), None, draw(1, num_classes))
    linear.fit(network, data, train.Recipe(PLAIN, Classifier(epochs=2)), tmp_path / "linear.keras")
    trained = weights.load_model(tmp_path / "linear.keras")
    for old, new in zip(before, trained.layers[1].variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())

    test = draw(2, num_classes)
    probabilities = predict_probabilities(trained, test.images, 1)
    features = keras.Model(network.input, network.layers[1].output)
    rows = [np.asarray(features(patches.images.astype(np.float32) / 255)) for patches in (data.real, test)]
    scaled = [(row - rows[0].mean(0)) / (rows[0].std(0) + 1e-6) for row in rows]
    reference = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000).fit(scaled[0], data.real.labels)
    expected = reference.predict_proba(scaled[1])
    area, expected_area = (
        roc_auc_score(test.labels, scores, multi_class="ovr")
        for scores in (probabilities, expected[:, 1] if num_classes == 2 else expected)
    )
    assert expected_area > 0.7 and area > expected_area - 0.02
    log = [json.loads(line) for line in (tmp_path / "linear.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [0, 1]
    best_logged = max(row["validation_roc_auc"] for row in log)
    validation = predict_probabilities(trained, data.validation.images, 1)
    area = roc_auc_score(data.validation.labels, validation, multi_class="ovr")
    assert area == pytest.approx(best_logged, abs=2e-3)
    assert {row["inverse_penalty"] for row in log} <= set(linear.INVERSE_PENALTIES)


def test_without_validation_patches_the_default_penalty_is_used(tmp_path):
    data = train.TrainingData(draw(0))
    linear.fit(make_network(), data, train.Recipe(PLAIN, Classifier(epochs=1)), tmp_path / "linear.keras")
    (row,) = map(json.loads, (tmp_path / "linear.jsonl").read_text().splitlines())
    assert row["inverse_penalty"] == linear.DEFAULT_INVERSE_PENALTY and "validation_roc_auc" not in row
    trained = weights.load_model(tmp_path / "linear.keras")
    assert roc_auc_score(draw(2).labels, predict_probabilities(trained, draw(2).images, 1)) > 0.7


def test_training_starts_from_the_regression_where_the_head_reads_several_depths(tmp_path):
    """One epoch at a tiny learning rate changes nothing: only the head that starts from the regression separates."""
    areas = []
    for multi_depth in (True, False):
        keras.utils.set_random_seed(0)
        settings = Classifier(epochs=1, learning_rate=1e-7, multi_depth=multi_depth)
        data = train.TrainingData(draw(0), None, draw(1))
        path = tmp_path / f"{multi_depth}.keras"
        linear.fit(make_network(trainable=True), data, train.Recipe(PLAIN, settings), path)
        areas.append(json.loads(path.with_suffix(".jsonl").read_text())["validation_roc_auc"])
    assert areas[0] > 0.7 and areas[0] > areas[1] + 0.05


def test_units_that_start_random_have_no_weight_at_first(tmp_path, monkeypatch):
    """The first steps of GAN+ResNet have the regression's loss, though its statistics are those of a batch."""
    settings = Classifier(epochs=1, multi_depth=True)
    network = build_classifier("gan_resnet", 50, discriminator(8), settings)
    assert num_random_units(network) == 1000
    assert num_random_units(build_classifier("resnet_table1")) == 0
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 50, 50, 3), dtype=np.uint8)
    labels = np.arange(COUNT) % 2
    images[labels == 1, :, :, 0] //= 2
    data = train.TrainingData(train.Patches(images, labels), None, train.Patches(images, labels))
    initial = []
    monkeypatch.setattr(linear, "train", lambda network, *_: initial.extend(network.get_layer("logit").get_weights()))
    linear.fit(network, data, train.Recipe(PLAIN, settings), tmp_path / "gan_resnet.keras")
    kernel, _ = initial
    assert not kernel[:1000].any() and kernel[1000:].any()
    batch = images[:64].astype(np.float32) / 255
    logits = [np.asarray(network(batch, training=training))[:, 0] for training in (False, True)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)
    assert roc_auc_score(labels[:64], logits[1]) > 0.9


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_frozen_if_its_entry_says_so(name):
    """This decides which settings it reads, and how it is trained."""
    gan_discriminator = discriminator(8) if CLASSIFIERS[name].uses_discriminator else None
    assert (
        linear.is_frozen(build_classifier(name, 50, gan_discriminator, pretrained=False)) == CLASSIFIERS[name].is_frozen
    )


def test_the_penalty_of_the_kept_epoch_is_used_where_nothing_can_select_one(tmp_path):
    """This is so for the exported classifier, which is fitted to all patients with the measured settings."""
    recipe = train.Recipe(PLAIN, Classifier(epochs=3))
    linear.fit(make_network(), train.TrainingData(draw(0), None, draw(1)), recipe, tmp_path / "selected.keras")
    rows = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row["validation_roc_auc"])
    penalty = linear.selected_penalty(tmp_path / "selected.jsonl")
    assert penalty == best["inverse_penalty"]
    recipe = recipe._replace(inverse_penalty=penalty)
    linear.fit(make_network(), train.TrainingData(draw(0)), recipe, tmp_path / "everyone.keras")
    rows = [json.loads(line) for line in (tmp_path / "everyone.jsonl").read_text().splitlines()]
    assert {row["inverse_penalty"] for row in rows} == {penalty}
    (tmp_path / "trained.jsonl").write_text('{"epoch": 0, "validation_roc_auc": 0.9}\n')
    assert linear.selected_penalty(tmp_path / "trained.jsonl") is None
    assert linear.selected_penalty(tmp_path / "missing.jsonl") is None


def test_features_that_are_not_finite_are_named(tmp_path):
    network, recipe = make_network(), train.Recipe(PLAIN, Classifier(epochs=1))
    network.layers[1].layers[0].bias.assign(np.full(12, np.inf))
    with pytest.raises(WorkError, match=r"classify: linear: the loss is NaN or infinite"):
        linear.fit(network, train.TrainingData(draw(0)), recipe, tmp_path / "linear.keras")


def test_a_layer_with_statistics_that_move_is_trained():
    """The GAN alone standardizes its features by batch normalization, whose statistics training sets."""
    x = keras.Input((4,))
    normalized = keras.layers.BatchNormalization(center=False, scale=False)(x)
    assert not linear.is_frozen(keras.Model(x, keras.layers.Dense(1, name="logit")(normalized)))


def test_balanced_patients_have_equal_weights():
    patients = np.repeat(["a", "b", "c"], [1, 4, 16])
    patches = train.Patches(np.zeros((21, 1, 1, 3), np.uint8), np.zeros(21, int), patients)
    np.testing.assert_array_equal(train.sample_weights(patches, 0.0), np.ones(21))
    by_patient = {power: [train.sample_weights(patches, power)[patients == name].sum() for name in "abc"]
                  for power in (0.5, 1.0)}  # fmt: skip
    np.testing.assert_allclose(by_patient[1.0], np.full(3, 7))
    np.testing.assert_allclose(np.divide(by_patient[0.5], by_patient[0.5][0]), [1, 2, 4])
    with pytest.raises(ValueError, match=r"patches need patients\. Received: patients=None"):
        train.sample_weights(patches._replace(patients=None), 1.0)


def test_patches_are_drawn_in_proportion_to_their_weights():
    sampler = batches.weighted_sampler(np.array([1.0, 0.0, 3.0]), 50, seed=0)
    drawn = np.bincount(np.concatenate([sampler(step) for step in range(100)]), minlength=3) / 5000
    np.testing.assert_allclose(drawn, [0.25, 0, 0.75], atol=0.02)
    np.testing.assert_array_equal(sampler(7), sampler(7))
    assert not np.array_equal(sampler(7), sampler(8))


def test_training_draws_balanced_patients():
    """The class weights are those of the balanced patches: here one patient has all malignant ones."""
    labels = np.array([1] * 5 + [0] * 15)
    patches = train.Patches(np.zeros((20, SIZE, SIZE, 3), np.uint8), labels, labels)
    balanced, plain = (
        train._build_sampling(
            train.TrainingData(patches), train.Recipe(Classify(patient_balance=balance, batch_size=10), Classifier()), 2
        )
        for balance in (1.0, 0.0)
    )
    drawn = np.concatenate([balanced.sampler(step) for step in range(200)])
    assert labels[drawn].mean() == pytest.approx(0.5, abs=0.04)
    assert balanced.class_weight == pytest.approx((1, 1))
    assert plain.class_weight[1] == pytest.approx(3 * plain.class_weight[0])


@pytest.mark.parametrize(("num_real", "fraction"), [(10, 0.5), (20, 0.5), (64, 0.5), (300, 0.5), (20, 0.1), (3, 0.9)])
def test_batches_have_the_share_of_synthetic_patches_however_few_real_ones_there_are(num_real, fraction):
    real, synthetic = (
        train.Patches(np.zeros((count, SIZE, SIZE, 3), np.uint8), np.arange(count) % 2, np.zeros(count, int))
        for count in (num_real, 500)
    )
    recipe = train.Recipe(Classify(batch_size=64), Classifier(synthetic_fraction=fraction))
    sampling = train._build_sampling(train.TrainingData(real, synthetic), recipe, 2)
    rows = sampling.sampler(0)
    assert np.mean(rows >= num_real) == pytest.approx(fraction, abs=0.03)
    assert len(rows) <= 64


@pytest.mark.parametrize(("loss", "is_balanced"), [("weighted_bce", True), ("bce", False), ("focal", False)])
def test_a_regression_weights_the_classes_where_the_loss_does(tmp_path, loss, is_balanced):
    """With one malignant patch of six, balanced classes have probabilities of a half in the mean."""
    keras.utils.set_random_seed(0)
    patches = draw(0)
    rows = np.flatnonzero((patches.labels == 0) | (np.arange(COUNT) % 10 == 1))
    rare = train.Patches(patches.images[rows], patches.labels[rows], patches.patients[rows])
    network, path = make_network(), tmp_path / "linear.keras"
    linear.fit(network, train.TrainingData(rare), train.Recipe(PLAIN.replace(loss=loss), Classifier(epochs=1)), path)
    mean = predict_probabilities(weights.load_model(path), rare.images, 1).mean()
    assert mean == pytest.approx(0.5 if is_balanced else rare.labels.mean(), abs=0.08)
