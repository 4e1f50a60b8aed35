"""The relativistic loss and the gradient penalty of the GAN."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bcgan import experiment, machine, progress
from bcgan.gan import losses
from bcgan.gan import train as gan
from bcgan.gan.watch import WINDOW, diagnose
from bcgan.models import weights
from bcgan.models.efficientnet_lite import has_weights
from bcgan.settings import Gan
from tests.digest import digest

RNG = np.random.default_rng(0)
SIZE = 32
IMAGES = RNG.integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.arange(24) % 2
SETTINGS = Gan(
    steps=4, batch_size=8, base_channels=4, latent_dim=8, sample_grid_interval=4, checkpoint_interval=2,
    projected_discriminator_weight=0, spectral_norm=False, loss="relativistic", gradient_penalty_weight=1.0,
    gradient_penalty_interval=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick_and_in_float32(monkeypatch):
    monkeypatch.setattr(gan, "recalibrate_batch_norm", lambda network, *_: network)
    yield
    keras.mixed_precision.set_global_policy("float32")


def train(folder, settings=SETTINGS, precision="float32"):
    folder.mkdir(exist_ok=True)
    machine.configure(experiment.load("phantom", ("profile=repro", f"precision={precision}")))
    gan.train(IMAGES, LABELS, settings, seed=5, folder=folder, xla=False)
    return {path.name: digest(weights.load_model(path).variables) for path in folder.glob("*.keras")}


def test_the_relativistic_loss_compares_pairs():
    real, fake = RNG.normal(size=(2, 6, 1))
    expected = np.log1p(np.exp(fake - real)).mean()
    logits = tf.constant(real), tf.constant(fake)
    assert float(losses.discriminator_loss(*logits, "relativistic")) == pytest.approx(expected)
    assert float(losses.generator_loss(*logits, "relativistic")) == pytest.approx(np.log1p(np.exp(real - fake)).mean())
    moved = [logit + 7.0 for logit in logits]  # a constant changes nothing
    assert float(losses.discriminator_loss(*moved, "relativistic")) == pytest.approx(expected)
    swapped = tf.constant(real[::-1]), tf.constant(fake)  # other partners do
    assert float(losses.discriminator_loss(*swapped, "relativistic")) != pytest.approx(expected)


def test_the_penalty_is_the_squared_slope_of_the_discriminator():
    """Of logit = sum(image * slope): the squared norm of the slope, whatever the images."""
    slope = RNG.normal(size=(SIZE, SIZE, 3)).astype(np.float32)
    images = tf.constant(RNG.random((4, SIZE, SIZE, 3), np.float32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = tf.reduce_sum(images * slope, (1, 2, 3))
    penalty = float(losses.gradient_penalty(tape.gradient(logits, images)))
    assert penalty == pytest.approx(float(np.square(slope).sum()), rel=1e-5)


@pytest.mark.parametrize("spectral", [False, True])
def test_the_penalty_flattens_the_discriminator(spectral):
    """Its gradient makes the slope smaller than training without it does."""
    machine.configure(experiment.load("phantom", ("profile=repro",)))
    slopes = {}
    for weight in (0.0, 100.0):
        keras.utils.set_random_seed(0)
        settings = SETTINGS.replace(spectral_norm=spectral, discriminator_learning_rate=1e-3)
        state = gan.build_gan_state(settings, SIZE)
        rng = np.random.default_rng(0)
        real, fake = (tf.constant(rng.random((8, SIZE, SIZE, 3), np.float32)) for _ in range(2))
        classes = tf.constant(LABELS[:8], tf.int32)
        for _ in range(10):
            gan._update_discriminator(state, real, fake + 0.1, classes, "relativistic", weight)
        with tf.GradientTape() as tape:
            tape.watch(real)
            logits = state.discriminator([real, classes], training=False)
        slopes[weight] = float(losses.gradient_penalty(tape.gradient(logits, real)))
    assert slopes[100.0] < 0.5 * slopes[0.0]


@pytest.mark.parametrize("interval", [1, 3])
def test_the_penalty_is_computed_every_few_steps_and_weighs_as_many_times(tmp_path, monkeypatch, interval):
    used, original = [], gan.make_step

    def make_step(state, settings, seed, xla, is_penalized):
        function = original(state, settings, seed, xla, is_penalized)

        def run(step, *rest):
            used.append((int(step), is_penalized))
            return function(step, *rest)

        return run

    monkeypatch.setattr(gan, "make_step", make_step)
    train(tmp_path, SETTINGS.replace(gradient_penalty_interval=interval))
    assert used == [(step, step % interval == 0) for step in range(4)]


def test_the_weight_of_a_step_follows_the_interval(monkeypatch):
    weights_used = []
    update = gan._update_discriminator

    def record(*arguments):
        weights_used.append(arguments[-1])
        return update(*arguments)

    monkeypatch.setattr(gan, "_update_discriminator", record)
    for is_penalized in (True, False):
        settings = SETTINGS.replace(gradient_penalty_weight=0.5, gradient_penalty_interval=8)
        step = gan.make_step(gan.build_gan_state(settings, SIZE), settings, 0, False, is_penalized)
        step(tf.constant(0, tf.int64), tf.constant(IMAGES[:8]), tf.constant(LABELS[:8], tf.int32))
    assert weights_used == [4.0, 0.0]


@pytest.mark.skipif(not has_weights("lite0"), reason="the package with EfficientNet-Lite0's weights is not installed")
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, monkeypatch, eagerly, precision):
    settings = SETTINGS.replace(projected_discriminator_weight=1.0, gradient_penalty_interval=3)
    whole = train(tmp_path / "whole", settings, precision)
    metrics = list(progress.read_jsonl(tmp_path / "whole/log.jsonl"))
    assert np.isfinite([list(line.values()) for line in metrics]).all()
    save = weights.save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", settings, precision)
    monkeypatch.setattr(weights, "save", save)
    assert train(tmp_path / "killed", settings, precision) == whole


def test_recognition_is_by_pairs():
    """The alarm of a discriminator that recognizes single patches has no ground here."""
    state = gan.build_gan_state(SETTINGS, SIZE)
    step = gan.make_step(state, SETTINGS, 0, False)
    metrics = step(tf.constant(0, tf.int64), tf.constant(IMAGES[:8]), tf.constant(LABELS[:8], tf.int32))
    assert 0 <= float(metrics["pairs_recognised"]) <= 1
    assert not {"real_recognised", "fake_recognised"} & set(metrics)
    assert diagnose([{"spread": 1.0, "pairs_recognised": 1.0}] * WINDOW) is None
    assert "collapse" in diagnose([{"spread": 0.1, "pairs_recognised": 0.5}] * WINDOW)
