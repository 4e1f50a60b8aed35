import cv2
import numpy as np
import pytest
import tensorflow as tf

from bcgan import experiment, machine, progress
from bcgan.errors import InputError, WorkError
from bcgan.gan import losses
from bcgan.gan import train as gan
from bcgan.models import weights
from bcgan.models.efficientnet_lite import has_weights
from bcgan.models.generator import recalibrate_batch_norm
from bcgan.settings import Gan
from tests.digest import digest

RNG = np.random.default_rng(0)
SIZE = 32  # the smallest, whose networks are traced in the shortest time
IMAGES = RNG.integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.arange(24) % 2
TINY = Gan(
    steps=6,
    batch_size=8,
    base_channels=4,
    latent_dim=8,
    sample_grid_interval=3,
    checkpoint_interval=2,
    projected_discriminator_weight=0,
)


@pytest.fixture(autouse=True)
def recalibrate_on_few_patches(monkeypatch):
    """Recalibrate on fewer patches than a real training does. `uninterrupted`, of the module, is trained before."""
    monkeypatch.setattr(
        gan,
        "recalibrate_batch_norm",
        lambda network, seed, batches: recalibrate_batch_norm(network, seed, batches, batch=16),
    )


def test_losses_against_probabilities():
    real, fake = RNG.normal(size=(5, 1)), RNG.normal(size=(5, 1))
    p_real, p_fake = (1 / (1 + np.exp(-logits)) for logits in (real, fake))
    expected = -np.log(p_real).mean() - np.log(1 - p_fake).mean()
    assert float(losses.discriminator_loss(tf.constant(real), tf.constant(fake))) == pytest.approx(expected)
    by_kind = {"saturating": np.log(1 - p_fake).mean(), "non_saturating": -np.log(p_fake).mean()}
    for kind, expected in by_kind.items():
        assert float(losses.generator_loss(tf.constant(fake), kind)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="Received: kind='hinge'"):
        losses.generator_loss(tf.constant(fake), "hinge")


def train(folder, settings=TINY):
    folder.mkdir(exist_ok=True)
    machine.configure(experiment.load("phantom", ("profile=repro",)))
    gan.train(IMAGES, LABELS, settings, seed=5, folder=folder, xla=False)
    return networks(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One training with TINY, shared by tests that only read it: its folder, and the step functions that were made."""
    folder, steps, original = tmp_path_factory.mktemp("uninterrupted"), [], gan.make_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gan, "make_step", lambda *arguments: steps.append(original(*arguments)) or steps[-1])
        train(folder)
    return folder, steps


def networks(folder):
    return {path.name: digest(weights.load_model(path).variables) for path in folder.glob("*.keras")}


@pytest.mark.skipif(not has_weights("lite0"), reason="the package with EfficientNet-Lite0's weights is not installed")
def test_a_killed_training_ends_with_the_same_weights(tmp_path, monkeypatch, starts, eagerly):
    """With a projected discriminator, and a new one after step 2: the old one, which is saved, stays constant then."""
    settings, stop_at = (
        TINY.replace(projected_discriminator_weight=1.0, projected_discriminator_3x3_steps=2, steps=4),
        3,
    )
    expected = train(tmp_path / "whole", settings)
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
    with np.load(tmp_path / "killed/checkpoint.npz") as saved:
        count = sum(name.startswith("projected_discriminator/") for name in saved)
        assert (
            digest([saved[f"projected_discriminator/{number}"] for number in range(count)])
            == expected["projected_discriminator.keras"]
        )
    assert not (tmp_path / "killed/generator.keras").exists()
    assert train(tmp_path / "killed", settings) == expected
    assert starts == [0, 0, 2]
    assert not (tmp_path / "killed/checkpoint.npz").exists()
    logged = [line["step"] for line in progress.read_jsonl(tmp_path / "killed/log.jsonl")]
    assert logged == [line["step"] for line in progress.read_jsonl(tmp_path / "whole/log.jsonl")]


def test_training_with_the_papers_loss_and_wider_noise(tmp_path, uninterrupted, monkeypatch):
    """Training writes grids, and a generator that scales its noise by `latent_std`."""
    labels, drawn = np.array([0, 1, 1], np.int32), RNG.standard_normal((3, TINY.latent_dim))
    expected, widen = [], gan.scale_latent_input

    def record_and_widen(network, spread):
        expected.append(gan.sample(network, labels, 1, noise=spread * drawn).astype(int))
        widen(network, spread)

    monkeypatch.setattr(gan, "scale_latent_input", record_and_widen)
    train(tmp_path, TINY.replace(loss="saturating", latent_std=1.5))
    for folder in (tmp_path, uninterrupted[0]):
        assert sorted(path.name for path in (folder / "grids").iterdir()) == ["step_000003.png", "step_000006.png"]
    make = weights.load_model(tmp_path / "generator.keras")
    images = gan.sample(make, labels, 1, noise=drawn)
    assert images.shape == (3, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert np.abs(images.astype(int) - expected[0]).max() <= 2
    once, again, other_seed = (gan.sample(make, labels, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other_seed)


def test_the_saved_generator_has_recalibrated_statistics(uninterrupted):
    make = weights.load_model(uninterrupted[0] / "generator.keras")
    recalibrated = recalibrate_batch_norm(make, 5, batches=16)
    for stored, recomputed in zip(make.get_weights(), recalibrated.get_weights(), strict=True):
        np.testing.assert_allclose(stored, recomputed, rtol=1e-3, atol=1e-4)


def test_a_nan_stops_with_the_remedy_and_no_model_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "nan"
    folder.mkdir()
    monkeypatch.setattr(gan, "discriminator_loss", lambda real, *_: tf.reduce_mean(real) * float("nan"))
    with pytest.raises(WorkError, match=r"NaN or infinite at step 1.*discriminator_learning_rate"):
        gan.train(IMAGES, LABELS, TINY, seed=5, folder=folder, xla=False)
    assert not (folder / "generator.keras").exists()


def test_a_nan_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    """After the first checkpoint the generator's loss, and so its weights, become NaN."""
    spoilt, original, save = tf.Variable(0.0), gan.generator_loss, weights.save

    def save_then_spoil(*arguments):
        save(*arguments)
        spoilt.assign(float("nan"))

    monkeypatch.setattr(gan, "generator_loss", lambda *arguments: original(*arguments) + spoilt)
    monkeypatch.setattr(weights, "save", save_then_spoil)
    with pytest.raises(WorkError, match=r"NaN or infinite at step 3.*generator_loss': nan.*generator_learning_rate"):
        train(tmp_path / "nan")
    assert not (tmp_path / "nan/generator.keras").exists()
    groups = gan.build_gan_state(TINY, SIZE).groups()
    assert weights.restore(tmp_path / "nan/checkpoint.npz", groups) == 2
    assert all(np.isfinite(np.asarray(variable)).all() for group in groups.values() for variable in group)


def test_a_class_without_patches_is_refused(tmp_path):
    with pytest.raises(InputError, match="no training patch is malignant"):
        gan.train(IMAGES, np.zeros(24, int), TINY, seed=5, folder=tmp_path, xla=False)


def test_a_checkpoint_of_other_settings_is_refused_and_left_as_it_was(tmp_path):
    wide = gan.build_gan_state(TINY.replace(base_channels=8), SIZE)
    weights.save(tmp_path / "checkpoint.npz", 2, wide.groups())
    before = (tmp_path / "checkpoint.npz").read_bytes()
    with pytest.raises(InputError, match="weights of other networks"):
        gan.train(IMAGES, LABELS, TINY, seed=5, folder=tmp_path, xla=False)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


def test_one_patch_a_class_is_no_failure(tmp_path):
    """A batch of two has no spread within a class, which is no error."""
    train(tmp_path / "two", TINY.replace(batch_size=2, steps=2))
    spreads = [line["spread"] for line in progress.read_jsonl(tmp_path / "two/log.jsonl")]
    assert spreads == pytest.approx([1, 1])


def test_a_step_is_traced_once(uninterrupted):
    assert [step.experimental_get_tracing_count() for step in uninterrupted[1]] == [1]


@pytest.mark.parametrize("size", [33, 96])
def test_patches_of_another_size_are_trained_on_at_that_size(tmp_path, eagerly, size):
    """The generator's patches, the discriminator and the grid have that size; the same seed gives the same networks."""
    images = RNG.integers(0, 256, (24, size, size, 3), dtype=np.uint8)
    settings = TINY.replace(steps=2, projected_discriminator_weight=1.0 if has_weights("lite0") else 0.0)
    digests = []
    for name in ("whole", "again") if size == 33 else ("whole",):
        machine.configure(experiment.load("phantom", ("profile=repro",)))
        (tmp_path / name).mkdir()
        gan.train(images, LABELS, settings, seed=5, folder=tmp_path / name, xla=False)
        digests.append(networks(tmp_path / name))
    assert digests[0] == digests[-1]
    make = weights.load_model(tmp_path / "whole/generator.keras")
    assert gan.sample(make, np.array([0, 1, 1], np.int32), 1).shape == (3, size, size, 3)
    network = weights.load_model(tmp_path / "whole/discriminator.keras")
    assert network.inputs[0].shape[1:] == (size, size, 3)
    grid = cv2.imread(str(tmp_path / "whole/grids/step_000002.png"))
    assert grid.shape == (4 * size, gan.GRID_COLUMNS * size, 3)
