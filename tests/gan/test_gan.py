import numpy as np
import pytest
import tensorflow as tf

from bcgan import experiment, machine, progress
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Gan
from bcgan.gan import losses
from bcgan.gan import train as gan
from bcgan.models import weights
from bcgan.models.efficientnet_lite import installed
from bcgan.models.generator import settled
from tests.digest import digest

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 50, 50, 3), dtype=np.uint8)
LABELS = np.arange(24) % 2
TINY = Gan(steps=6, batch=8, width=4, latent=8, grid_every=3, checkpoint_every=2, critic=0)


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
    return networks(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A training of TINY's, once for all who only read it: its folder, and the step functions that were made."""
    folder, made, original = tmp_path_factory.mktemp("undisturbed"), [], gan.make_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gan, "make_step", lambda *given: made.append(original(*given)) or made[-1])
        train(folder)
    return folder, made


def networks(folder):
    return {path.name: digest(weights.load_model(path).variables) for path in folder.glob("*.keras")}


@pytest.mark.parametrize(("stop_at", "critic", "late"), [(3, 0.0, 0), (5, 1.0, 3)])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, monkeypatch, undisturbed, stop_at, critic, late, repro):
    if critic and not installed("lite0"):
        pytest.skip("the package with EfficientNet-Lite0's weights is not installed")
    settings = TINY.model_copy(update={"critic": critic, "late": late})
    kept = undisturbed[0] if settings == TINY else tmp_path / "whole"
    whole = networks(kept) if settings == TINY else train(kept, settings)
    if late:  # the game before goes as it would alone, and its critic is left as it was
        before = train(tmp_path / "before", TINY.model_copy(update={"critic": critic, "steps": 3}))
        assert whole["critic.keras"] == before["critic.keras"]
        assert whole["generator.keras"] != before["generator.keras"]
    assert ("critic.keras" in whole) == bool(critic)
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

    original = gan.make_step
    monkeypatch.setattr(gan, "make_step", step_or_die)
    with pytest.raises(Killed):
        train(tmp_path / "killed", settings)
    assert (tmp_path / "killed/checkpoint.npz").exists()
    assert not (tmp_path / "killed/generator.keras").exists()
    assert train(tmp_path / "killed", settings) == whole
    assert not (tmp_path / "killed/checkpoint.npz").exists()
    logged = [line["step"] for line in progress.read_lines(tmp_path / "killed/log.jsonl")]
    assert logged == [line["step"] for line in progress.read_lines(kept / "log.jsonl")]


@pytest.mark.parametrize(("loss", "conditioning"), [("saturating", "projection"), ("non_saturating", "auxiliary")])
def test_both_losses_train_and_leave_grids_and_samples(tmp_path, loss, conditioning):
    train(tmp_path / loss, TINY.model_copy(update={"loss": loss, "conditioning": conditioning}))
    assert sorted(path.name for path in (tmp_path / loss / "grids").iterdir()) == ["step_000003.png", "step_000006.png"]
    make = weights.load_model(tmp_path / loss / "generator.keras")
    labels = np.array([0, 1, 1], np.int32)
    once, again = gan.sample(make, labels, seed=1), gan.sample(make, labels, seed=1)
    assert once.shape == (3, 50, 50, 3)
    assert once.dtype == np.uint8
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, gan.sample(make, labels, seed=2))


def test_the_generator_that_is_written_samples_from_the_noise_asked_for(tmp_path, undisturbed):
    train(tmp_path / "wide", TINY.model_copy(update={"noise": 1.5}))
    plain, wide = (weights.load_model(folder / "generator.keras") for folder in (undisturbed[0], tmp_path / "wide"))
    drawn, labels = (
        np.random.default_rng(0).standard_normal((3, plain.inputs[0].shape[1])),
        np.array([0, 1, 1], np.int32),
    )
    expected = gan.sample(plain, labels, 0, noise=1.5 * drawn).astype(int)
    assert np.abs(gan.sample(wide, labels, 0, noise=drawn).astype(int) - expected).max() <= 2


def test_the_generator_that_is_written_has_statistics_of_its_own(undisturbed):
    make = weights.load_model(undisturbed[0] / "generator.keras")
    again = settled(make, 5, batches=16)
    for stored, own in zip(make.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(stored, own, rtol=1e-3, atol=1e-4)


def test_a_nan_stops_with_the_remedy_and_no_model_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "nan"
    folder.mkdir()
    monkeypatch.setattr(gan, "discriminator_loss", lambda real, fake: tf.reduce_mean(real) * float("nan"))
    with pytest.raises(WorkError, match=r"no number any more at step 1.*discriminator_rate"):
        gan.train(IMAGES, LABELS, TINY, seed=5, folder=folder, xla=False)
    assert not (folder / "generator.keras").exists()


def test_a_nan_leaves_the_last_good_checkpoint_to_go_on_from(tmp_path, monkeypatch):
    """The generator's loss, and so its weights, are spoilt once the first checkpoint is written."""
    spoilt, original, save = tf.Variable(0.0), gan.generator_loss, weights.save

    def save_then_spoil(*given):
        save(*given)
        spoilt.assign(float("nan"))

    monkeypatch.setattr(gan, "generator_loss", lambda *given: original(*given) + spoilt)
    monkeypatch.setattr(weights, "save", save_then_spoil)
    with pytest.raises(WorkError, match=r"no number any more at step 3.*generator_loss': nan.*generator_rate"):
        train(tmp_path / "nan")
    assert not (tmp_path / "nan/generator.keras").exists()
    groups = gan.start_players(TINY).groups()
    assert weights.restore(tmp_path / "nan/checkpoint.npz", groups) == 2
    assert all(np.isfinite(np.asarray(variable)).all() for group in groups.values() for variable in group)
    monkeypatch.undo()
    assert "generator.keras" in train(tmp_path / "nan")


def test_a_class_without_patches_is_refused(tmp_path):
    with pytest.raises(InputError, match="no training patch has label 1"):
        gan.train(IMAGES, np.zeros(24, int), TINY, seed=5, folder=tmp_path, xla=False)


def test_a_checkpoint_of_other_settings_is_refused_and_left_as_it_was(tmp_path):
    wide = gan.start_players(TINY.model_copy(update={"width": 8}))
    weights.save(tmp_path / "checkpoint.npz", 2, wide.groups())
    before = (tmp_path / "checkpoint.npz").read_bytes()
    with pytest.raises(InputError, match="other networks' weights"):
        gan.train(IMAGES, LABELS, TINY, seed=5, folder=tmp_path, xla=False)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


def test_class_loss_is_the_cross_entropy_of_the_named_class():
    verdicts, labels = RNG.normal(size=(5, 3)), np.array([0, 1, 1, 0, 1])
    odds = np.exp(verdicts[:, 1:])
    expected = -np.log(odds[np.arange(5), labels] / odds.sum(1)).mean()
    assert float(losses.class_loss(tf.constant(verdicts), tf.constant(labels))) == pytest.approx(expected)
    assert float(losses.class_loss(tf.constant(verdicts[:, :1]), tf.constant(labels))) == 0


def test_one_patch_a_class_is_no_failure(tmp_path):
    """A batch of two has no spread within a class; that is not a loss gone wrong."""
    train(tmp_path / "two", TINY.model_copy(update={"batch": 2, "steps": 2}))
    spreads = [line["spread"] for line in progress.read_lines(tmp_path / "two/log.jsonl")]
    assert spreads == pytest.approx([1, 1])


def test_a_step_is_traced_once(undisturbed):
    assert [step.experimental_get_tracing_count() for step in undisturbed[1]] == [1]
