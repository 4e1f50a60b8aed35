"""Training of the class-conditional GAN: alternating updates, an averaged generator, resumable at any checkpoint."""

import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import cv2
import keras
import numpy as np
import tensorflow as tf

from bcgan import distribute, progress
from bcgan.data import batches
from bcgan.errors import InputError, WorkError
from bcgan.gan.augment import DRAWS, augment
from bcgan.gan.losses import discriminator_loss, generator_loss
from bcgan.gan.watch import WINDOW, trouble
from bcgan.models import fast, weights
from bcgan.models.discriminator import discriminator
from bcgan.models.generator import generator, settled, widen
from bcgan.models.projected_discriminator import frozen_features, projected_discriminator
from bcgan.settings import Gan

GRID_COLUMNS = 8
LOG_EVERY = 10
NO_SPREAD = 1e-4


class GanState(NamedTuple):
    """The networks of the game and their optimizers.

    features: frozen ImageNet features; `None` if the paper's discriminator is the only one.
    projected_discriminator: a second discriminator on those features; `None` likewise.
    projected_discriminator_3x3: takes its place in the last steps; `None` if no setting asks for it.
    """

    generator: keras.Model
    average: keras.Model
    discriminator: keras.Model
    features: keras.Model | None
    projected_discriminator: keras.Model | None
    projected_discriminator_3x3: keras.Model | None
    optimizers: dict[str, keras.optimizers.Optimizer]

    def groups(self) -> weights.Groups:
        """Everything that a checkpoint has to hold."""
        names = (
            "generator", "average", "discriminator", "projected_discriminator", "projected_discriminator_3x3",
        )  # fmt: skip
        networks = {name: getattr(self, name) for name in names}
        variables = {name: network.variables for name, network in networks.items() if network}
        return variables | {f"{name}_optimizer": optimizer.variables for name, optimizer in self.optimizers.items()}

    def with_3x3_heads(self) -> "GanState":
        """Return the state with the 3x3 projected discriminator in the other one's place."""
        optimizers = self.optimizers | {"projected_discriminator": self.optimizers["projected_discriminator_3x3"]}
        return self._replace(projected_discriminator=self.projected_discriminator_3x3, optimizers=optimizers)


def train(images: np.ndarray, labels: np.ndarray, settings: Gan, seed: int, folder: Path, xla: bool) -> None:
    """Train the GAN and write its networks, log.jsonl and grids/step_<n>.png.

    The networks are generator.keras, with averaged weights, discriminator.keras and, if the settings ask for one,
    projected_discriminator.keras. An interruption leaves checkpoint.npz; calling again with the same arguments resumes.

    Args:
        images: uint8, (n, 50, 50, 3). Training patients' patches alone.
        labels: integers, (n,). 0 benign, 1 malignant.

    Raises:
        InputError: a class has no patch.
        WorkError: a loss is NaN or infinite, or the GAN collapsed and `on_collapse` is stop; the last checkpoint
            is kept.
    """
    for label in (0, 1):
        if not (labels == label).any():
            raise InputError(f"gan: no training patch has label {label}; a conditional GAN needs both. Add some.")
    gan_state = build_gan_state(settings)
    groups, checkpoint, log_path = gan_state.groups(), folder / "checkpoint.npz", folder / "log.jsonl"
    start = weights.restore(checkpoint, groups)
    progress.keep_lines(log_path, "step", start)
    if start:
        progress.log.info("gan: resuming from step %d", start)
    states = [gan_state] + ([gan_state.with_3x3_heads()] if gan_state.projected_discriminator_3x3 else [])
    step_functions = [make_step(state, settings, seed, xla) for state in states]
    sampler = batches.balanced(np.arange(len(images)), labels, settings.batch_size, seed)
    stream = batches.stream(images, labels, sampler, range(start, settings.steps))

    began, done, warned = time.monotonic(), start, set()
    recent = deque(progress.read_lines(log_path), maxlen=WINDOW)
    _speak_up(trouble(recent), start, settings, warned)
    with progress.bar(settings.steps, "gan", start=start) as bar:
        for step, real, classes in stream:
            done = int(step) + 1
            step_function = step_functions[done > settings.steps - settings.projected_discriminator_3x3_steps]
            values = {name: float(value) for name, value in step_function(step, real, classes).items()}
            if not np.isfinite(list(values.values())).all():
                raise WorkError(
                    f"gan: a loss is NaN or infinite at step {done} ({values}). No model was written; "
                    "lower gan.discriminator_learning_rate and gan.generator_learning_rate, or set precision=float32."
                )
            if int(step) % LOG_EVERY == 0 or done == settings.steps:
                rate = (done - start) * settings.batch_size / (time.monotonic() - began)
                progress.write_line(log_path, step=int(step), images_per_second=round(rate, 1), **values)
                recent.append(values)
                _speak_up(trouble(recent), done, settings, warned)
            if done % settings.sample_grid_interval == 0 or done == settings.steps:
                # A grid needs fewer patches behind its statistics than what is written in the end.
                average = settled(gan_state.average, seed, batches=16 if done == settings.steps else 2)
                write_grid(folder / "grids" / f"step_{done:06d}.png", average, seed)
            if done % settings.checkpoint_interval == 0 and done < settings.steps:
                weights.save(checkpoint, done, groups)
            bar.set_postfix(D=f"{values['discriminator_loss']:.2f}", G=f"{values['generator_loss']:.2f}", refresh=False)
            bar.update()
    widen(average, settings.latent_std)
    weights.save_model(average, folder / "generator.keras")
    weights.save_model(gan_state.discriminator, folder / "discriminator.keras")
    if gan_state.projected_discriminator:
        weights.save_model(gan_state.projected_discriminator, folder / "projected_discriminator.keras")
    checkpoint.unlink(missing_ok=True)


def sample(network: keras.Model, labels: np.ndarray, seed: int, noise: np.ndarray | None = None) -> np.ndarray:
    """Synthetic patches of the given classes.

    Args:
        network: keras.Model. A generator.
        labels: integers, (n,).
        seed: int. The same seed and labels give the same patches.
        noise: float, (n, latent). Defaults to standard normal noise drawn from the seed.

    Returns:
        uint8, (n, 50, 50, 3).
    """
    rng, batch = np.random.default_rng(seed), 256
    if noise is None:
        noise = rng.standard_normal((len(labels), network.inputs[0].shape[-1]))
    chunks = []
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        grain = rng.standard_normal((len(labels[part]), *network.inputs[2].shape[1:]), np.float32)
        chunks.append(network([noise[part].astype(np.float32), labels[part], grain], training=False).numpy())
    return np.rint(np.concatenate(chunks) * 255).astype(np.uint8)


def write_grid(path: Path, network: keras.Model, seed: int) -> None:
    """Two rows of benign and two of malignant patches, from the same noise at every step."""
    labels = np.repeat([0, 0, 1, 1], GRID_COLUMNS).astype(np.int32)
    patches = sample(network, labels, seed)
    rows = patches.reshape(4, GRID_COLUMNS, *patches.shape[1:])
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    path.parent.mkdir(exist_ok=True)
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    path.write_bytes(encoded.tobytes())


def build_gan_state(settings: Gan) -> GanState:
    make, average = (
        generator(settings.latent_dim, settings.base_channels),
        generator(settings.latent_dim, settings.base_channels),
    )
    distribute.synchronise(make)
    average.set_weights(make.get_weights())
    gan_discriminator = discriminator(settings.base_channels, spectral=settings.spectral_norm)
    features = fast.fuse_model(frozen_features()) if settings.projected_discriminator_weight else None
    projected, projected_3x3 = (
        (projected_discriminator(features) if features else None),
        (projected_discriminator(features, kernel_size=3) if settings.projected_discriminator_3x3_steps else None),
    )
    rates = {"generator": settings.generator_learning_rate} | dict.fromkeys(
        ("discriminator", "projected_discriminator", "projected_discriminator_3x3"),
        settings.discriminator_learning_rate,
    )
    networks = {
        "generator": make,
        "discriminator": gan_discriminator,
        "projected_discriminator": projected,
        "projected_discriminator_3x3": projected_3x3,
    }
    optimizers = {name: adam(rates[name], network.trainable_variables) for name, network in networks.items() if network}
    return GanState(make, average, gan_discriminator, features, projected, projected_3x3, optimizers)


def make_step(gan_state: GanState, settings: Gan, seed: int, xla: bool):
    """Return a function that updates each discriminator, then the generator, on the same synthetic patches."""
    make, gan_discriminator = fast.fuse_model(gan_state.generator), gan_state.discriminator

    def scaled(name: str, loss: tf.Tensor) -> tf.Tensor:
        return gan_state.optimizers[name].scale_loss(loss / distribute.replicas())

    def improve(name: str, tape: tf.GradientTape, loss: tf.Tensor) -> None:
        variables = getattr(gan_state, name).trainable_variables
        gan_state.optimizers[name].apply(tape.gradient(loss, variables), variables)

    def update(step, images, classes):
        seeds = [tf.stack([tf.constant(seed, tf.int64), 16 * step + DRAWS * place]) for place in range(5)]
        number, classes = tf.shape(images)[0], distribute.own(classes)
        both = tf.concat([classes, classes], 0)
        real = distribute.own(batches.dihedral(batches.scale(images), seeds[0]))
        noise = distribute.own(tf.random.stateless_normal((number, settings.latent_dim), seeds[1]))
        grain = distribute.own(tf.random.stateless_normal((number, *real.shape[1:3], 1), seeds[2]))
        with tf.GradientTape() as make_tape:
            fake = make([noise, classes, grain], training=True)
            # Real and synthetic apart, so that nothing is propagated back through the real half.
            batches_and_seeds = ((real, seeds[3]), (fake, seeds[4]))
            real_augmented, fake_augmented = (
                augment(x, seeds) if settings.diff_augment else x for x, seeds in batches_and_seeds
            )
            with tf.GradientTape() as discriminator_tape:
                verdicts = gan_discriminator(
                    [tf.concat([real_augmented, tf.stop_gradient(fake_augmented)], 0), both], training=True
                )
                real_logit, fake_logit = tf.split(verdicts, 2)
                real_fake_loss = discriminator_loss(real_logit, fake_logit)
                scaled_loss = scaled("discriminator", real_fake_loss)
            improve("discriminator", discriminator_tape, scaled_loss)
            verdicts = gan_discriminator([fake_augmented, classes], training=False)
            total = make_loss = generator_loss(verdicts, settings.loss)
            if gan_state.projected_discriminator:
                real_maps, fake_maps = (
                    gan_state.features(side, training=False) for side in (real_augmented, fake_augmented)
                )
                maps = [tf.concat([x, tf.stop_gradient(y)], 0) for x, y in zip(real_maps, fake_maps, strict=True)]
                with tf.GradientTape() as projected_tape:
                    logits = gan_state.projected_discriminator([*maps, both], training=True)
                    projected_discriminator_loss = sum(discriminator_loss(*tf.split(logit, 2)) for logit in logits)
                    scaled_loss = scaled("projected_discriminator", projected_discriminator_loss)
                improve("projected_discriminator", projected_tape, scaled_loss)
                logits = gan_state.projected_discriminator([*fake_maps, classes], training=False)
                total += settings.projected_discriminator_weight * sum(
                    generator_loss(logit, settings.loss) for logit in logits
                )
            scaled_generator_loss = scaled("generator", total)
        improve("generator", make_tape, scaled_generator_loss)
        return {
            "discriminator_loss": real_fake_loss,
            "generator_loss": make_loss,
            "real_recognised": tf.reduce_mean(tf.cast(real_logit > 0, tf.float32)),
            "fake_recognised": tf.reduce_mean(tf.cast(fake_logit < 0, tf.float32)),
            # One patch a class, or the same one twice, has no spread: neither side is the poorer then.
            "spread": (_spread(fake, classes) + NO_SPREAD) / (_spread(real, classes) + NO_SPREAD),
        } | (
            {"projected_discriminator_loss": projected_discriminator_loss} if gan_state.projected_discriminator else {}
        )

    update_everywhere = distribute.everywhere(update)

    @tf.function(jit_compile=xla)
    def step_function(step, images, classes):
        metrics, count = update_everywhere(step, images, classes), tf.cast(step, tf.float32)
        decay = tf.minimum(settings.ema_decay, (1 + count) / (10 + count))
        weights.move_average(gan_state.average.variables, gan_state.generator.variables, decay)
        return metrics

    return step_function


def _spread(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """How much patches of a class differ in their coarse look: the smaller class's standard deviation."""
    coarse = tf.nn.avg_pool2d(images, 10, 10, "VALID")
    deviations = [tf.reduce_mean(tf.math.reduce_std(coarse[classes == label], 0)) for label in (0, 1)]
    return tf.minimum(*deviations)


def _speak_up(problem: str | None, done: int, settings: Gan, warned: set[str]) -> None:
    """Warn of each kind of trouble once, or stop."""
    if problem and settings.on_mode_collapse == "stop":
        raise WorkError(f"gan: step {done}: {problem}.")
    if problem and problem[:20] not in warned:
        warned.add(problem[:20])
        progress.log.warning("gan: step %d: %s", done, problem)


def adam(rate: float, variables: list, momentum: float = 0.0) -> keras.optimizers.Optimizer:
    """Adam as GANs use it, its variables built, with a loss scale where the precision asks for one."""
    optimizer = keras.optimizers.Adam(rate, beta_1=momentum, beta_2=0.99)
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer
