import numpy as np
import pytest
import tensorflow as tf

from bcgan import experiment, machine, progress
from bcgan.errors import WorkError
from bcgan.experiment import Gan
from bcgan.gan import losses
from bcgan.gan import train as gan
from bcgan.models import weights

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 50, 50, 3), dtype=np.uint8)
LABELS = np.arange(24) % 2
TINY = Gan(steps=6, batch=8, width=4, latent=8, grid_every=3, checkpoint_every=2)


@pytest.fixture
def repro():
    """The repro profile; determinism stays on for the rest of the process, which harms no test."""
    machine.start(experiment.load("phantom", ("profile=repro",)))


def test_losses_against_probabilities():
    real, fake = RNG.normal(size=(5, 1)), RNG.normal(size=(5, 1))
    p_real, p_fake = (1 / (1 + np.exp(-logits)) for logits in (real, fake))
    expected = -np.log(p_real).mean() - np.log(1 - p_fake).mean()
    assert float(losses.discriminator_loss(tf.constant(real), tf.constant(fake))) == pytest.approx(expected)
    assert float(losses.generator_loss(tf.constant(fake), "saturating")) == pytest.approx(np.log(1 - p_fake).mean())
    assert float(losses.generator_loss(tf.constant(fake), "non_saturating")) == pytest.approx(-np.log(p_fake).mean())
    with pytest.raises(ValueError, match="Received: kind='hinge'"):
        losses.generator_loss(tf.constant(fake), "hinge")


def train(folder, settings=TINY):
    folder.mkdir(exist_ok=True)
    machine.start(experiment.load("phantom", ("profile=repro",)))
    gan.train(IMAGES, LABELS, settings, seed=5, folder=folder, xla=False)
    return [
        weights.digest(weights.load_model(folder / f"{name}.keras").variables)
        for name in ("generator", "discriminator")
    ]


@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, monkeypatch, stop_at, repro):
    whole = train(tmp_path / "whole")
    steps = []

    class Killed(Exception):
        pass

    def step_or_die(*args, **kwargs):
        function = original(*args, **kwargs)

        def run(step, *rest):
            if int(step) == stop_at and not steps:
                steps.append(int(step))
                raise Killed
            return function(step, *rest)

        return run

    original = gan._step
    monkeypatch.setattr(gan, "_step", step_or_die)
    with pytest.raises(Killed):
        train(tmp_path / "killed")
    assert (tmp_path / "killed/checkpoint.npz").exists()
    assert not (tmp_path / "killed/generator.keras").exists()
    assert train(tmp_path / "killed") == whole
    assert not (tmp_path / "killed/checkpoint.npz").exists()
    logged = [line["step"] for line in progress.read_lines(tmp_path / "killed/log.jsonl")]
    assert logged == [line["step"] for line in progress.read_lines(tmp_path / "whole/log.jsonl")]


@pytest.mark.parametrize("loss", ["saturating", "non_saturating"])
def test_both_losses_train_and_leave_grids_and_samples(tmp_path, loss):
    train(tmp_path / loss, TINY.model_copy(update={"loss": loss}))
    assert sorted(path.name for path in (tmp_path / loss / "grids").iterdir()) == ["step_000003.png", "step_000006.png"]
    make = weights.load_model(tmp_path / loss / "generator.keras")
    labels = np.array([0, 1, 1], np.int32)
    once, again = gan.sample(make, labels, seed=1), gan.sample(make, labels, seed=1)
    assert once.shape == (3, 50, 50, 3)
    assert once.dtype == np.uint8
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, gan.sample(make, labels, seed=2))


def test_a_nan_stops_with_the_remedy_and_no_model_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "nan"
    folder.mkdir()
    monkeypatch.setattr(gan, "discriminator_loss", lambda real, fake: tf.reduce_mean(real) * float("nan"))
    with pytest.raises(WorkError, match=r"no number any more at step 1.*discriminator_rate"):
        gan.train(IMAGES, LABELS, TINY, seed=5, folder=folder, xla=False)
    assert not (folder / "generator.keras").exists()
