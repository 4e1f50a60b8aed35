import numpy as np
import pytest

from bcgan import experiment, machine, progress
from bcgan.data.batches import STAINS
from bcgan.errors import WorkError
from bcgan.gan import translation
from bcgan.models import weights
from bcgan.models.efficientnet_lite import has_weights
from bcgan.preprocess import properties
from bcgan.settings import Translate
from tests.digest import digest

RNG = np.random.default_rng(0)
LABELS = np.arange(24) % 2
SIZE = 32  # the smallest
# Benign patches are pink with eosin, malignant ones blue with haematoxylin.
AMOUNTS = np.where(LABELS[:, None] == 1, (0.9, 0.1), (0.1, 0.6))[:, None, None] * RNG.uniform(
    0.7, 1.3, (24, SIZE, SIZE, 2)
)
IMAGES = np.rint(255 * np.exp(-AMOUNTS @ STAINS[:2])).astype(np.uint8)
pytestmark = pytest.mark.skipif(not has_weights("lite0"), reason="EfficientNet-Lite0's weights are not installed")
TINY = Translate(steps=4, batch_size=4, base_channels=4, checkpoint_interval=2)


def train(folder, settings=TINY):
    folder.mkdir(exist_ok=True)
    machine.configure(experiment.load("phantom", ("profile=repro",)))
    translation.train(IMAGES, LABELS, settings, seed=5, folder=folder, xla=False)
    return [digest(weights.load_model(folder / f"to_{name}.keras").variables) for name in translation.CLASSES]


def test_a_killed_training_ends_with_the_same_weights(tmp_path, killed, starts, eagerly):
    expected = train(tmp_path / "whole")
    with killed(2):
        train(tmp_path / "killed")
    assert train(tmp_path / "killed") == expected
    assert starts == [0, 0, 2]
    logged = [line["step"] for line in progress.read_jsonl(tmp_path / "killed/log.jsonl")]
    assert logged == [0, 3]


def test_the_translator_learns_which_stain_makes_the_other_class(tmp_path):
    train(
        tmp_path / "colours",
        Translate(
            steps=60,
            batch_size=8,
            base_channels=4,
            learning_rate=4e-3,
            cycle_loss_weight=1.0,
            identity_loss_weight=0.0,
            ema_decay=0.5,
        ),
    )
    to_malignant = weights.load_model(tmp_path / "colours/to_malignant.keras")
    benign = IMAGES[LABELS == 0]
    translated = translation.translate(to_malignant, benign)
    assert translated.shape == benign.shape
    assert translated.dtype == np.uint8
    haematoxylin = [properties.haematoxylin(patches).mean() for patches in (benign, translated)]
    assert haematoxylin[1] > haematoxylin[0] + 0.05


def test_a_nan_stops_with_the_remedy(tmp_path, monkeypatch):
    nonsense = dict.fromkeys(
        ("projected_discriminator_loss", "translator_loss", "cycle_loss", "identity_loss"), float("nan")
    )
    monkeypatch.setattr(translation, "make_step", lambda *arguments: lambda step, images: nonsense)
    with pytest.raises(WorkError, match=r"NaN or infinite at step 1.*translate\.learning_rate"):
        translation.train(IMAGES, LABELS, TINY, seed=5, folder=tmp_path, xla=False)
    assert not list(tmp_path.glob("*.keras"))


def test_patches_of_another_size_are_translated_at_that_size(tmp_path, eagerly):
    images = RNG.integers(0, 256, (24, 100, 100, 3), dtype=np.uint8)
    machine.configure(experiment.load("phantom", ("profile=repro",)))
    translation.train(images, LABELS, TINY.replace(steps=1), seed=5, folder=tmp_path, xla=False)
    network = weights.load_model(tmp_path / "to_malignant.keras")
    assert translation.translate(network, images[:3]).shape == (3, 100, 100, 3)
