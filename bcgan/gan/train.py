"""Train the class-conditional GAN: alternating updates, an averaged generator, resumable from checkpoints."""

import functools
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bcgan import distribute, progress
from bcgan.classes import CLASSES
from bcgan.data import batches
from bcgan.errors import InputError, WorkError
from bcgan.gan.augment import augment
from bcgan.gan.losses import discriminator_loss, generator_loss, layout_loss
from bcgan.gan.watch import WINDOW, diagnose
from bcgan.models import fast, optimizers, weights
from bcgan.models.discriminator import discriminator
from bcgan.models.generator import generator, num_labels, recalibrate_batch_norm, scale_latent_input
from bcgan.models.projected_discriminator import imagenet_features, projected_discriminator
from bcgan.preprocess.images import encode_png
from bcgan.settings import Gan

GRID_COLUMNS, GRID_ROWS = 8, 2  # of patches, the rows of each class
LOG_EVERY = 10
SPREAD_EPSILON = 1e-4


class GanState(NamedTuple):
    """The networks of a GAN and their optimizers.

    Attributes:
        average: A generator with the exponential moving averages of the generator's weights.
        features: Frozen ImageNet features. `None` if the paper's discriminator is the only one.
        projected_discriminator: A second discriminator on those features. `None` likewise.
        projected_discriminator_3x3: Replaces it in the last steps. `None` if the settings have no such steps.
        optimizers: By network.
    """

    generator: keras.Model
    average: keras.Model
    discriminator: keras.Model
    features: keras.Model | None
    projected_discriminator: keras.Model | None
    projected_discriminator_3x3: keras.Model | None
    optimizers: dict[str, keras.optimizers.Optimizer]

    def groups(self) -> weights.Groups:
        """Return the variables of a checkpoint, by name."""
        names = (
            "generator", "average", "discriminator", "projected_discriminator", "projected_discriminator_3x3",
        )  # fmt: skip
        networks = {name: getattr(self, name) for name in names}
        variables = {name: network.variables for name, network in networks.items() if network}
        return variables | {f"{name}_optimizer": optimizer.variables for name, optimizer in self.optimizers.items()}

    def with_3x3_heads(self) -> "GanState":
        """Return the state in which the 3x3 projected discriminator and its optimizer replace the other ones."""
        optimizers = self.optimizers | {"projected_discriminator": self.optimizers["projected_discriminator_3x3"]}
        return self._replace(projected_discriminator=self.projected_discriminator_3x3, optimizers=optimizers)


def train(
    images: np.ndarray,
    labels: np.ndarray,
    settings: Gan,
    seed: int,
    folder: Path,
    xla: bool,
    class_names: tuple[str, ...] = CLASSES,
) -> None:
    """Train the GAN and write its networks, log.jsonl and grids/step_<n>.png.

    The networks are generator.keras, with averaged weights, discriminator.keras and, if the settings ask for one,
    projected_discriminator.keras. An interruption leaves checkpoint.npz; calling again with the same arguments resumes.

    Args:
        images: uint8, (n, size, size, 3), of 32 to 256 pixels. Patches of training patients only.
        labels: integers, (n,). Indices into `class_names`.
        class_names: Defaults to benign and malignant.

    Raises:
        InputError: If a class has no patch.
        WorkError: If a loss is NaN or infinite, or the GAN collapsed and `on_mode_collapse` is stop; the last
            checkpoint is kept.
    """
    num_classes = len(class_names)
    for label, name in enumerate(class_names):
        if not (labels == label).any():
            raise InputError(f"gan: no training patch is {name}; a conditional GAN needs every class. Add some.")
    gan_state = build_gan_state(settings, images.shape[1], num_classes)
    groups, checkpoint, log_path = gan_state.groups(), folder / "checkpoint.npz", folder / "log.jsonl"
    start = weights.restore(checkpoint, groups)
    progress.truncate_jsonl(log_path, "step", start)
    if start:
        progress.log.info("gan: resuming from step %d", start)
    states = [gan_state] + ([gan_state.with_3x3_heads()] if gan_state.projected_discriminator_3x3 else [])

    @functools.cache
    def get_step_function(is_3x3: bool):
        """Return the compiled step of the training, or of its last steps with the 3x3 projected discriminator."""
        return make_step(states[is_3x3], settings, seed, xla)

    sampler = batches.class_balanced_sampler(np.arange(len(images)), labels, settings.batch_size, seed, num_classes)
    dataset = batches.make_dataset(images, labels, sampler, range(start, settings.steps))

    start_time = time.monotonic()
    monitor = _FailureMonitor(progress.read_jsonl(log_path), settings)
    monitor.check(start)
    with progress.bar(settings.steps, "gan", start=start) as bar:
        for step, real, classes in dataset:
            num_done = int(step) + 1
            step_function = get_step_function(num_done > settings.steps - settings.projected_discriminator_3x3_steps)
            metrics = {name: float(value) for name, value in step_function(step, real, classes).items()}
            if not np.isfinite(list(metrics.values())).all():
                raise WorkError(
                    f"gan: a loss is NaN or infinite at step {num_done} ({metrics}). No model was written; "
                    "lower gan.discriminator_learning_rate and gan.generator_learning_rate, or set precision=float32."
                )
            if int(step) % LOG_EVERY == 0 or num_done == settings.steps:
                speed = (num_done - start) * settings.batch_size / (time.monotonic() - start_time)
                progress.append_jsonl(log_path, step=int(step), images_per_second=round(speed, 1), **metrics)
                monitor.add(metrics)
                monitor.check(num_done)
            if num_done % settings.sample_grid_interval == 0 or num_done == settings.steps:
                # The statistics of a grid need fewer batches than those of the final generator.
                num_batches = 16 if num_done == settings.steps else 2
                average = recalibrate_batch_norm(gan_state.average, seed, num_batches)
                write_grid(folder / "grids" / f"step_{num_done:06d}.png", average, seed)
            if num_done % settings.checkpoint_interval == 0 and num_done < settings.steps:
                weights.save(checkpoint, num_done, groups)
            losses = f"{metrics['discriminator_loss']:.2f}", f"{metrics['generator_loss']:.2f}"
            bar.set_postfix(D=losses[0], G=losses[1], refresh=False)
            bar.update()
    scale_latent_input(average, settings.latent_std)
    weights.save_model(average, folder / "generator.keras")
    weights.save_model(gan_state.discriminator, folder / "discriminator.keras")
    if gan_state.projected_discriminator:
        weights.save_model(gan_state.projected_discriminator, folder / "projected_discriminator.keras")
    checkpoint.unlink(missing_ok=True)


class _FailureMonitor:
    """Watches the last logged steps for failures of the GAN, and warns of each kind once or stops the training."""

    def __init__(self, logged: Iterable[dict[str, float]], settings: Gan):
        """Start with the steps that an interrupted training logged."""
        self._recent = deque(logged, maxlen=WINDOW)
        self._stops = settings.on_mode_collapse == "stop"
        self._warned: set[str] = set()

    def add(self, metrics: dict[str, float]) -> None:
        """Add the metrics of a logged step."""
        self._recent.append(metrics)

    def check(self, step: int) -> None:
        """Diagnose the last logged steps.

        Raises:
            WorkError: If the GAN failed and `on_mode_collapse` is stop.
        """
        problem = diagnose(self._recent)
        if problem and self._stops:
            raise WorkError(f"gan: step {step}: {problem}.")
        if problem and problem[:20] not in self._warned:  # the beginning is the same for each kind of failure
            self._warned.add(problem[:20])
            progress.log.warning("gan: step %d: %s", step, problem)


def sample(network: keras.Model, labels: np.ndarray, seed: int, noise: np.ndarray | None = None) -> np.ndarray:
    """Generate patches of the given classes.

    Args:
        network: A generator.
        labels: integers, (n,).
        seed: The same seed and labels give the same patches.
        noise: float, (n, latent). Defaults to standard normal noise drawn from the seed.

    Returns:
        uint8, (n, size, size, 3).
    """
    rng, batch_size = np.random.default_rng(seed), batches.inference_batch(network.output_shape[1])
    if noise is None:
        noise = rng.standard_normal((len(labels), network.inputs[0].shape[-1]))
    patches = []
    for start in range(0, len(labels), batch_size):
        rows = slice(start, start + batch_size)
        pixel_noise = rng.standard_normal((len(labels[rows]), *network.inputs[2].shape[1:]), np.float32)
        inputs = [noise[rows].astype(np.float32), labels[rows], pixel_noise]
        patches.append(network(inputs, training=False).numpy())
    return np.rint(np.concatenate(patches) * 255).astype(np.uint8)


def write_grid(path: Path, network: keras.Model, seed: int) -> None:
    """Write a PNG of synthetic patches: GRID_ROWS rows of GRID_COLUMNS patches of each class.

    The same seed gives the same noise, so that grids of different steps can be compared.
    """
    labels = np.repeat(np.arange(num_labels(network), dtype=np.int32), GRID_ROWS * GRID_COLUMNS)
    patches = sample(network, labels, seed)
    rows = patches.reshape(-1, GRID_COLUMNS, *patches.shape[1:])
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_png(sheet))


def build_gan_state(settings: Gan, size: int = 50, num_classes: int = 2) -> GanState:
    """Build the networks of a GAN, with initial weights, and an Adam optimizer for each that is trained.

    The projected discriminators are `None` if the settings do not use them.

    Args:
        size: Side of a patch, pixels. Defaults to 50.
        num_classes: Defaults to 2.
    """
    gan_generator = generator(settings.latent_dim, settings.base_channels, num_classes, size)
    average_generator = generator(settings.latent_dim, settings.base_channels, num_classes, size)
    distribute.synchronize_batch_norm(gan_generator)
    average_generator.set_weights(gan_generator.get_weights())  # where the moving average starts
    gan_discriminator = discriminator(settings.base_channels, num_classes, settings.spectral_norm, size)
    features = projected = projected_3x3 = None
    if settings.projected_discriminator_weight:
        features = fast.fuse_model(imagenet_features(size))
        projected = projected_discriminator(features, classes=num_classes)
    if settings.projected_discriminator_3x3_steps:
        projected_3x3 = projected_discriminator(features, classes=num_classes, kernel_size=3)
    networks = {
        "generator": gan_generator,
        "discriminator": gan_discriminator,
        "projected_discriminator": projected,
        "projected_discriminator_3x3": projected_3x3,
    }
    learning_rates = dict.fromkeys(networks, settings.discriminator_learning_rate)
    learning_rates["generator"] = settings.generator_learning_rate
    optimizers = {
        name: make_adam(learning_rates[name], network.trainable_variables)
        for name, network in networks.items()
        if network
    }
    return GanState(gan_generator, average_generator, gan_discriminator, features, projected, projected_3x3, optimizers)


def make_step(gan_state: GanState, settings: Gan, seed: int, xla: bool):
    """Return a function that updates each discriminator, then the generator, on the same synthetic patches.

    The function takes the step, int64, uint8 images, (batch, size, size, 3), and their classes, int32, (batch,). It
    returns scalars by name: discriminator_loss, generator_loss, real_recognised and fake_recognised (fractions of
    patches that the discriminator classifies correctly), spread (variation of synthetic patches relative to real ones)
    and, if the settings ask for them, projected_discriminator_loss and layout_loss.
    """
    fused_generator, num_classes = fast.fuse_model(gan_state.generator), num_labels(gan_state.generator)

    def update(step, images, classes):
        """Update the networks of one replica, except the averaged generator, and return the metrics."""
        # Five streams of random numbers; a step has 16 seeds.
        seeds = [tf.stack([tf.constant(seed, tf.int64), 16 * step + index]) for index in range(5)]
        batch, classes = tf.shape(images)[0], distribute.replica_rows(classes)
        real = distribute.replica_rows(batches.random_dihedral(batches.to_float(images), seeds[0]))
        noise = distribute.replica_rows(tf.random.stateless_normal((batch, settings.latent_dim), seeds[1]))
        pixel_noise = distribute.replica_rows(tf.random.stateless_normal((batch, *real.shape[1:3], 1), seeds[2]))
        with tf.GradientTape() as tape:
            fake = fused_generator([noise, classes, pixel_noise], training=True)
            # Augmented separately, so that no gradient is computed for the real half.
            real_augmented = augment(real, seeds[3]) if settings.diff_augment else real
            fake_augmented = augment(fake, seeds[4]) if settings.diff_augment else fake
            real_logits, fake_logits, loss_d = _update_discriminator(gan_state, real_augmented, fake_augmented, classes)
            logits = gan_state.discriminator([fake_augmented, classes], training=False)
            loss_g = generator_loss(logits, settings.loss)
            total_loss = loss_g
            projected_metrics = {}
            if gan_state.projected_discriminator:
                projected_loss_d, projected_loss_g = _update_projected_discriminator(
                    gan_state, real_augmented, fake_augmented, classes, settings.loss
                )
                total_loss += settings.projected_discriminator_weight * projected_loss_g
                projected_metrics = {"projected_discriminator_loss": projected_loss_d}
            layout_metrics = {}
            if settings.layout_loss_weight:
                layout_metrics = {"layout_loss": layout_loss(fake, classes)}
                total_loss += settings.layout_loss_weight * layout_metrics["layout_loss"]
            scaled_loss = _scale_loss(gan_state, "generator", total_loss)
        _apply_gradient(gan_state, "generator", tape, scaled_loss)
        recognized = {"real_recognised": real_logits > 0, "fake_recognised": fake_logits < 0}
        metrics = {
            "discriminator_loss": loss_d,
            "generator_loss": loss_g,
            **{name: tf.reduce_mean(tf.cast(values, tf.float32)) for name, values in recognized.items()},
            # With one patch of a class, or copies of one, both spreads are zero and the ratio is one.
            "spread": (_spread(fake, classes, num_classes) + SPREAD_EPSILON)
            / (_spread(real, classes, num_classes) + SPREAD_EPSILON),
        }
        return metrics | projected_metrics | layout_metrics

    update_everywhere = distribute.run_on_replicas(update)

    @tf.function(jit_compile=xla, autograph=False)
    def step_function(step, images, classes):
        """Update all networks of the GAN by one step, compiled; see `make_step`."""
        metrics, count = update_everywhere(step, images, classes), tf.cast(step, tf.float32)
        # A shorter average at first, so that it forgets the untrained weights.
        decay = tf.minimum(settings.ema_decay, (1 + count) / (10 + count))
        weights.update_ema(gan_state.average.variables, gan_state.generator.variables, decay)
        return metrics

    return step_function


def _update_discriminator(
    gan_state: GanState, real: tf.Tensor, fake: tf.Tensor, classes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Update the paper's discriminator, and return its logits of real and of synthetic patches and its loss.

    Args:
        real, fake: float32, (batch, size, size, 3).
        classes: int32, (batch,), of both.
    """
    with tf.GradientTape() as tape:
        images, labels = tf.concat([real, tf.stop_gradient(fake)], 0), tf.concat([classes, classes], 0)
        real_logits, fake_logits = tf.split(gan_state.discriminator([images, labels], training=True), 2)
        loss = discriminator_loss(real_logits, fake_logits)
        scaled_loss = _scale_loss(gan_state, "discriminator", loss)
    _apply_gradient(gan_state, "discriminator", tape, scaled_loss)
    return real_logits, fake_logits, loss


def _update_projected_discriminator(
    gan_state: GanState, real: tf.Tensor, fake: tf.Tensor, classes: tf.Tensor, loss_name: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Update the projected discriminator, and return its loss and the loss that it gives the generator.

    Args:
        real, fake: float32, (batch, size, size, 3).
        classes: int32, (batch,), of both.
        loss_name: As `bcgan.gan.losses.generator_loss` takes it.
    """
    real_maps = gan_state.features(real, training=False)
    fake_maps = gan_state.features(fake, training=False)
    maps = [tf.concat([x, tf.stop_gradient(y)], 0) for x, y in zip(real_maps, fake_maps, strict=True)]
    with tf.GradientTape() as tape:
        logits = gan_state.projected_discriminator([*maps, tf.concat([classes, classes], 0)], training=True)
        loss = sum(discriminator_loss(*tf.split(logit, 2)) for logit in logits)
        scaled_loss = _scale_loss(gan_state, "projected_discriminator", loss)
    _apply_gradient(gan_state, "projected_discriminator", tape, scaled_loss)
    fake_logits = gan_state.projected_discriminator([*fake_maps, classes], training=False)
    return loss, sum(generator_loss(logit, loss_name) for logit in fake_logits)


def _scale_loss(gan_state: GanState, name: str, loss: tf.Tensor) -> tf.Tensor:
    """Scale the loss of a network for its optimizer's precision and for the number of replicas."""
    return gan_state.optimizers[name].scale_loss(loss / distribute.replicas())


def _apply_gradient(gan_state: GanState, name: str, tape: tf.GradientTape, scaled_loss: tf.Tensor) -> None:
    """Update the network `name` by the gradient of its scaled loss."""
    variables = getattr(gan_state, name).trainable_variables
    gan_state.optimizers[name].apply(tape.gradient(scaled_loss, variables), variables)


def _spread(images: tf.Tensor, classes: tf.Tensor, num_classes: int = 2) -> tf.Tensor:
    """Return how much patches of a class vary: the deviation of means of 10x10 pixels, the smallest of all classes."""
    coarse = tf.nn.avg_pool2d(images, 10, 10, "VALID")
    deviations = [tf.reduce_mean(tf.math.reduce_std(coarse[classes == label], 0)) for label in range(num_classes)]
    return tf.reduce_min(deviations)


def make_adam(learning_rate: float, variables: list[keras.Variable], beta_1: float = 0.0) -> keras.optimizers.Optimizer:
    """Return Adam as is usual for GANs, without a first moment by default, built for the variables.

    With the policy mixed_float16 it scales the loss, so that small gradients do not become zero.
    """
    optimizer = optimizers.Adam(learning_rate, beta_1=beta_1, beta_2=0.99)
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer
