"""Training of the class-conditional GAN: alternating updates, an averaged generator, resumable at any checkpoint."""

import time
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf

from bcgan import progress
from bcgan.data import batches
from bcgan.errors import WorkError
from bcgan.experiment import Gan
from bcgan.gan.losses import discriminator_loss, generator_loss
from bcgan.models import weights
from bcgan.models.discriminator import discriminator
from bcgan.models.generator import generator

GRID_COLUMNS = 8
LOG_EVERY = 10


def train(images: np.ndarray, labels: np.ndarray, settings: Gan, seed: int, folder: Path, xla: bool) -> None:
    """Train and write generator.keras (averaged), discriminator.keras, log.jsonl and grids/step_<n>.png.

    A kill leaves checkpoint.npz; calling again with the same arguments goes on from there.

    Args:
        images: uint8, (n, 50, 50, 3). Training patients' patches alone.
        labels: integers, (n,). 0 benign, 1 malignant.

    Raises:
        WorkError: a loss is no number any more; the last checkpoint is kept.
    """
    make, average = generator(settings.latent, settings.width), generator(settings.latent, settings.width)
    average.set_weights(make.get_weights())
    judge = discriminator(settings.width, spectral=settings.spectral)
    make_optimizer = _adam(settings.generator_rate, make)
    judge_optimizer = _adam(settings.discriminator_rate, judge)
    groups = {
        "generator": make.variables,
        "average": average.variables,
        "discriminator": judge.variables,
        "generator_optimizer": make_optimizer.variables,
        "discriminator_optimizer": judge_optimizer.variables,
    }
    checkpoint, log_path = folder / "checkpoint.npz", folder / "log.jsonl"
    start = weights.restore(checkpoint, groups)
    progress.keep_lines(log_path, "step", start)
    if start:
        progress.log.info("gan: goes on from step %d", start)
    step_function = _step(make, average, judge, make_optimizer, judge_optimizer, settings, seed, xla)
    sampler = batches.balanced(np.arange(len(images)), labels, settings.batch, seed)
    stream = batches.stream(images, labels, sampler, range(start, settings.steps))

    began, done = time.monotonic(), start
    with progress.bar(settings.steps, "gan", start=start) as bar:
        for step, real, classes in stream:
            values = {name: float(value) for name, value in step_function(step, real, classes).items()}
            done = int(step) + 1
            if not np.isfinite([values["discriminator_loss"], values["generator_loss"]]).all():
                raise WorkError(
                    f"gan: a loss is no number any more at step {done} ({values}). No model was written; "
                    "lower gan.discriminator_rate and gan.generator_rate, or set precision=float32."
                )
            if int(step) % LOG_EVERY == 0 or done == settings.steps:
                rate = (done - start) * settings.batch / (time.monotonic() - began)
                progress.write_line(log_path, step=int(step), images_per_second=round(rate, 1), **values)
            if done % settings.grid_every == 0 or done == settings.steps:
                write_grid(folder / "grids" / f"step_{done:06d}.png", average, settings.latent, seed)
            if done % settings.checkpoint_every == 0 and done < settings.steps:
                weights.save(checkpoint, done, groups)
            bar.set_postfix(D=f"{values['discriminator_loss']:.2f}", G=f"{values['generator_loss']:.2f}", refresh=False)
            bar.update()
    weights.save_model(average, folder / "generator.keras")
    weights.save_model(judge, folder / "discriminator.keras")
    checkpoint.unlink(missing_ok=True)


def sample(network: keras.Model, labels: np.ndarray, seed: int, batch: int = 256) -> np.ndarray:
    """Synthetic patches of the given classes.

    Args:
        network: keras.Model. A generator.
        labels: integers, (n,).
        seed: int. The same seed and labels give the same patches.

    Returns:
        uint8, (n, 50, 50, 3).
    """
    latent = network.inputs[0].shape[-1]
    noise = np.random.default_rng(seed).standard_normal((len(labels), latent)).astype(np.float32)
    made = [
        network([noise[start : start + batch], labels[start : start + batch]], training=False).numpy()
        for start in range(0, len(labels), batch)
    ]
    return np.rint(np.concatenate(made) * 255).astype(np.uint8)


def write_grid(path: Path, network: keras.Model, latent: int, seed: int) -> None:
    """Two rows of benign and two of malignant patches, from the same noise at every step."""
    labels = np.repeat([0, 0, 1, 1], GRID_COLUMNS).astype(np.int32)
    patches = sample(network, labels, seed)
    rows = patches.reshape(4, GRID_COLUMNS, *patches.shape[1:])
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    path.parent.mkdir(exist_ok=True)
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    path.write_bytes(encoded.tobytes())


def _adam(rate: float, network: keras.Model) -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99)
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


def _step(make, average, judge, make_optimizer, judge_optimizer, settings: Gan, seed: int, xla: bool):
    """One update of the discriminator, then one of the generator, on the same synthetic patches, made once."""

    @tf.function(jit_compile=xla)
    def step_function(step, images, classes):
        seeds = tf.stack([tf.constant(seed, tf.int64), 3 * step])
        real = batches.dihedral(batches.scale(images), seeds)
        noise = tf.random.stateless_normal(
            (tf.shape(images)[0], settings.latent), seeds + tf.constant([0, 1], tf.int64)
        )
        with tf.GradientTape() as make_tape:
            fake = make([noise, classes], training=True)
            with tf.GradientTape() as judge_tape:
                both = tf.concat([real, tf.stop_gradient(fake)], 0)
                verdicts = judge([both, tf.concat([classes, classes], 0)], training=True)
                real_logit, fake_logit = tf.split(verdicts, 2)
                judge_loss = discriminator_loss(real_logit, fake_logit)
                scaled = judge_optimizer.scale_loss(judge_loss)
            variables = judge.trainable_variables
            judge_optimizer.apply(judge_tape.gradient(scaled, variables), variables)
            make_loss = generator_loss(judge([fake, classes], training=False), settings.loss)
            scaled = make_optimizer.scale_loss(make_loss)
        variables = make.trainable_variables
        make_optimizer.apply(make_tape.gradient(scaled, variables), variables)
        count = tf.cast(step, tf.float32)
        decay = tf.minimum(settings.average, (1 + count) / (10 + count))
        weights.move_average(average.variables, make.variables, decay)
        return {
            "discriminator_loss": judge_loss,
            "generator_loss": make_loss,
            "real_recognised": tf.reduce_mean(tf.cast(real_logit > 0, tf.float32)),
            "fake_recognised": tf.reduce_mean(tf.cast(fake_logit < 0, tf.float32)),
        }

    return step_function
