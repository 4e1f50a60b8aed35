"""Training in half precision matches float32, and training compiled by XLA matches uncompiled training; float16, which
is fast on GPUs only, scales its loss."""

import os
from functools import cache, partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from bcgan import experiment, machine, progress
from bcgan.classify import train as classify
from bcgan.gan import train as gan
from bcgan.models import cnn
from bcgan.models.classifier import build_classifier
from bcgan.settings import Classifier, Classify, Gan

HALVES = ("mixed_bfloat16", "mixed_float16")
RNG = np.random.default_rng(0)
LABELS = np.arange(64) % 2
IMAGES = RNG.integers(100, 200, (64, 50, 50, 3), dtype=np.uint8)
IMAGES[LABELS == 1, :, :25] //= 3


@pytest.fixture(autouse=True)
def small_networks_of_which_only_logs_are_read(monkeypatch):
    monkeypatch.setattr(gan, "recalibrate_batch_norm", lambda network, *arguments, **options: network)
    monkeypatch.setattr(cnn, "cnn", partial(cnn.cnn, width=8))
    yield
    keras.mixed_precision.set_global_policy("float32")


def start(precision: str) -> None:
    machine.configure(experiment.load("phantom", ("precision=float32",)))
    keras.mixed_precision.set_global_policy(precision)  # `machine.configure` refuses float16 without a GPU
    keras.utils.set_random_seed(0)


def train_classifier(precision: str, folder: Path, xla: bool = False) -> list[dict]:
    start(precision)
    path = folder / f"{precision}-{xla}.keras"
    patches, settings = classify.Patches(IMAGES, LABELS), Classifier(epochs=4, learning_rate=3e-3)
    recipe = classify.Recipe(Classify(batch_size=8), settings, xla=xla)
    classify.train(build_classifier("cnn"), classify.TrainingData(patches, None, patches), recipe, path)
    return progress.read_jsonl(path.with_suffix(".jsonl"))


def train_gan(precision: str, folder: Path, xla: bool = False) -> list[dict]:
    start(precision)
    folder = folder / f"{precision}-{xla}"
    folder.mkdir()
    settings = Gan(
        steps=4,
        batch_size=8,
        base_channels=4,
        latent_dim=8,
        sample_grid_interval=4,
        checkpoint_interval=4,
        projected_discriminator_weight=0,
    )
    gan.train(IMAGES[:, :32, :32], LABELS, settings, seed=0, folder=folder, xla=xla)
    return progress.read_jsonl(folder / "log.jsonl")


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory):
    """The log of an uncompiled training in float32, by network and by source of random numbers; each runs once."""
    return cache(lambda run, _drawn_by: run("float32", tmp_path_factory.mktemp("float32")))


@pytest.mark.parametrize("half", HALVES)
def test_a_classifier_learns_as_in_float32(tmp_path, in_float32, half):
    full_log, half_log = in_float32(train_classifier, "TensorFlow"), train_classifier(half, tmp_path)
    assert full_log[-1]["loss"] < 0.5 * full_log[0]["loss"]
    for full_row, half_row in zip(full_log, half_log, strict=True):
        assert half_row["loss"] == pytest.approx(full_row["loss"], abs=0.1)
    assert half_log[-1]["validation_roc_auc"] == pytest.approx(full_log[-1]["validation_roc_auc"], abs=0.02)


@pytest.mark.parametrize("half", HALVES)
def test_a_gan_trains_as_in_float32(tmp_path, in_float32, half):
    full_log, half_log = in_float32(train_gan, "TensorFlow"), train_gan(half, tmp_path)
    for full_row, half_row in zip(full_log, half_log, strict=True):
        for name in ("discriminator_loss", "generator_loss", "spread"):
            assert half_row[name] == pytest.approx(full_row[name], abs=0.1), (name, full_row["step"])


@pytest.mark.parametrize(
    ("precision", "scales"), [("float32", False), ("mixed_bfloat16", False), ("mixed_float16", True)]
)
def test_only_float16_scales_its_loss(precision, scales):
    start(precision)
    state = gan.build_gan_state(Gan(base_channels=4, latent_dim=4, projected_discriminator_weight=0))
    optimizers = [
        *state.optimizers.values(),
        classify.make_optimizer(build_classifier("cnn"), Classifier(), Classify(), 1),
    ]
    assert {isinstance(optimizer, keras.optimizers.LossScaleOptimizer) for optimizer in optimizers} == {scales}


@pytest.fixture
def without_determinism():
    """Tests of the repro profile leave determinism on, which has no gradient of max pooling under XLA."""
    disable_op_determinism()


@pytest.fixture
def same_draws(monkeypatch):
    """From a seed XLA draws other floats than TensorFlow, but the same integers: compute the floats from integers."""
    drawn, parts = tf.random.stateless_uniform, 2**23

    def uniform(shape, seed, minval=0, maxval=1, dtype=tf.float32):
        if dtype == tf.int32:
            return drawn(shape, seed, minval, maxval, dtype)
        return minval + (maxval - minval) * (tf.cast(drawn(shape, seed, 0, parts, tf.int32), dtype) + 0.5) / parts

    def normal(shape, seed, mean=0.0, stddev=1.0, dtype=tf.float32):
        return mean + stddev * tf.math.ndtri(uniform(shape, seed, dtype=dtype))

    monkeypatch.setattr(tf.random, "stateless_uniform", uniform)
    monkeypatch.setattr(tf.random, "stateless_normal", normal)


@pytest.fixture
def steps(monkeypatch) -> list:
    """Every step function, so that its traces can be counted."""
    functions = []
    for module in (classify, gan):

        def watched_make_step(*arguments, make=module.make_step):
            functions.append(make(*arguments))
            return functions[-1]

        monkeypatch.setattr(module, "make_step", watched_make_step)
    return functions


def compilations(folder: Path) -> int:
    """How often XLA compiled anything while a profile was taken."""
    space = xplane_pb2.XSpace()
    space.ParseFromString(next(folder.rglob("*.xplane.pb")).read_bytes())
    return sum(
        plane.event_metadata[event.metadata_id].name == "CpuCompiler::RunBackend"
        for plane in space.planes
        for line in plane.lines
        for event in line.events
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "precision", "tolerance"),
    [
        (train_classifier, "float32", 0.005),
        (train_gan, "float32", 0.005),
        *((train_classifier, half, 0.1) for half in HALVES),
        # A minute; `make reliability` runs it.
        *((train_gan, half, 0.1) for half in HALVES if os.environ.get("BCGAN_KILLS")),
    ],
)
def test_compiled_training_matches_uncompiled_float32(
    tmp_path, without_determinism, same_draws, in_float32, steps, run, precision, tolerance
):
    plain = in_float32(run, "same_draws")
    steps.clear()
    with tf.profiler.experimental.Profile(str(tmp_path / "profile")):
        compiled = run(precision, tmp_path, xla=True)
    assert [step.experimental_get_tracing_count() for step in steps] == [1]
    assert compilations(tmp_path / "profile") == 1
    for plain_row, compiled_row in zip(plain, compiled, strict=True):
        for name in plain_row.keys() & {"loss", "discriminator_loss", "generator_loss", "spread"}:
            assert compiled_row[name] == pytest.approx(plain_row[name], rel=tolerance, abs=tolerance), name
