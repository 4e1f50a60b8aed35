"""Half precision learns as float32 does; float16, which only a GPU makes quick, with its loss scaled."""

import keras
import numpy as np
import pytest

from bcgan import experiment, machine, progress
from bcgan.classify import train as classify
from bcgan.experiment import Classifier, Classify, Gan
from bcgan.gan import train as gan
from bcgan.models.classifier import classifier

HALVES = ("mixed_bfloat16", "mixed_float16")
RNG = np.random.default_rng(0)
LABELS = np.arange(64) % 2
IMAGES = RNG.integers(100, 200, (64, 50, 50, 3), dtype=np.uint8)
IMAGES[LABELS == 1, :, :25] //= 3


@pytest.fixture(autouse=True)
def afterwards():
    yield
    keras.mixed_precision.set_global_policy("float32")


def start(precision: str) -> None:
    machine.start(experiment.load("phantom", ("precision=float32",)))
    keras.mixed_precision.set_global_policy(precision)  # `start` refuses float16 where there is no GPU
    keras.utils.set_random_seed(0)


def classified(precision: str, folder) -> list[dict]:
    start(precision)
    path = folder / f"{precision}.keras"
    patches, own = classify.Patches(IMAGES, LABELS), Classifier(epochs=4, rate=3e-3)
    classify.train(classifier("cnn"), patches, None, patches, Classify(batch=8), own, 0, path, xla=False)
    return progress.read_lines(path.with_suffix(".jsonl"))


def played(precision: str, folder) -> list[dict]:
    start(precision)
    (folder / precision).mkdir()
    settings = Gan(steps=8, batch=16, width=8, latent=8, grid_every=8, checkpoint_every=8, critic=0)
    gan.train(IMAGES, LABELS, settings, seed=0, folder=folder / precision, xla=False)
    return progress.read_lines(folder / precision / "log.jsonl")


@pytest.mark.parametrize("half", HALVES)
def test_a_classifier_learns_as_in_float32(tmp_path, half):
    full, found = (classified(precision, tmp_path) for precision in ("float32", half))
    assert full[-1]["loss"] < 0.5 * full[0]["loss"]
    for one, other in zip(full, found, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=0.1)
    assert found[-1]["validation_roc_auc"] == pytest.approx(full[-1]["validation_roc_auc"], abs=0.02)


@pytest.mark.parametrize("half", HALVES)
def test_a_gan_plays_as_in_float32(tmp_path, half):
    full, found = (played(precision, tmp_path) for precision in ("float32", half))
    for one, other in zip(full, found, strict=True):
        for name in ("discriminator_loss", "generator_loss", "spread"):
            assert other[name] == pytest.approx(one[name], abs=0.1), (name, one["step"])


@pytest.mark.parametrize(
    ("precision", "scales"), [("float32", False), ("mixed_bfloat16", False), ("mixed_float16", True)]
)
def test_float16_alone_scales_its_loss(precision, scales):
    start(precision)
    players = gan.start_players(Gan(width=4, latent=4, critic=0))
    optimizers = [*players.optimizers.values(), classify.make_optimizer(classifier("cnn"), Classifier(), Classify(), 1)]
    assert {isinstance(one, keras.optimizers.LossScaleOptimizer) for one in optimizers} == {scales}
