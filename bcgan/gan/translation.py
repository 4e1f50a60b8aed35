"""Train a cycle-consistent GAN (Zhu et al. 2017) that translates patches of one class to another and back."""

import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bcgan import progress
from bcgan.classes import CLASSES
from bcgan.data import batches
from bcgan.errors import WorkError
from bcgan.gan.augment import augment
from bcgan.gan.losses import discriminator_loss, generator_loss
from bcgan.gan.train import LOG_EVERY, make_adam
from bcgan.models import fast, weights
from bcgan.models.projected_discriminator import imagenet_features, projected_discriminator
from bcgan.models.translator import translator
from bcgan.settings import Translate


class TranslationState(NamedTuple):
    """The networks of a cycle-consistent GAN."""

    translators: tuple[keras.Model, keras.Model]  # by target label: translators[1] translates to the second class
    averages: tuple[keras.Model, keras.Model]  # with the exponential moving averages of the translators' weights
    features: keras.Model  # frozen ImageNet features, the input of the projected discriminator
    projected_discriminator: keras.Model

    def translator_variables(self) -> list:
        """Return the trainable variables of both translators."""
        return [variable for network in self.translators for variable in network.trainable_variables]


def train(
    images: np.ndarray,
    labels: np.ndarray,
    settings: Translate,
    seed: int,
    folder: Path,
    xla: bool,
    class_names: tuple[str, str] = CLASSES,
) -> None:
    """Train both translators and write to_<class>.keras, with averaged weights, and log.jsonl.

    An interruption leaves checkpoint.npz; calling again with the same arguments resumes.

    Args:
        images: uint8, (n, size, size, 3), of 32 to 256 pixels. Patches of training patients only.
        labels: integers, (n,). Indices into `class_names`.
        class_names: The pair of classes. Defaults to benign and malignant.

    Raises:
        WorkError: If a loss is NaN or infinite; the last checkpoint is kept.
    """
    state = _build_translation_state(settings.base_channels, images.shape[1], class_names)
    optimizers = _build_optimizers(state, settings.learning_rate)
    groups = {
        "translators": [variable for network in state.translators for variable in network.variables],
        "averages": [variable for network in state.averages for variable in network.variables],
        "projected_discriminator": state.projected_discriminator.variables,
        **{f"{name}_optimizer": optimizer.variables for name, optimizer in optimizers.items()},
    }
    checkpoint, log_path = folder / "checkpoint.npz", folder / "log.jsonl"
    start = weights.restore(checkpoint, groups)
    progress.truncate_jsonl(log_path, "step", start)
    step_function = make_step(state, optimizers, settings, seed, xla)
    # Batches are patches of the first class, then as many of the second.
    sampler = batches.class_balanced_sampler(np.arange(len(images)), labels, 2 * (settings.batch_size // 2), seed)
    dataset = batches.make_dataset(images, labels, sampler, range(start, settings.steps))

    start_time = time.monotonic()
    with progress.bar(settings.steps, "translate", start=start) as bar:
        for step, patches, _ in dataset:
            losses = {name: float(value) for name, value in step_function(step, patches).items()}
            num_done = int(step) + 1
            if not np.isfinite(list(losses.values())).all():
                raise WorkError(
                    f"translate: a loss is NaN or infinite at step {num_done} ({losses}). No model was written; "
                    "lower translate.learning_rate, or set precision=float32."
                )
            if int(step) % LOG_EVERY == 0 or num_done == settings.steps:
                speed = (num_done - start) * settings.batch_size / (time.monotonic() - start_time)
                progress.append_jsonl(log_path, step=int(step), images_per_second=round(speed, 1), **losses)
            if num_done % settings.checkpoint_interval == 0 and num_done < settings.steps:
                weights.save(checkpoint, num_done, groups)
            bar.set_postfix(cycle=f"{losses['cycle_loss']:.3f}", G=f"{losses['translator_loss']:.2f}", refresh=False)
            bar.update()
    for name, average in zip(class_names, state.averages, strict=True):
        weights.save_model(average, folder / f"to_{name}.keras")
    checkpoint.unlink(missing_ok=True)


def make_step(
    state: TranslationState, optimizers: dict[str, keras.Optimizer], settings: Translate, seed: int, xla: bool
):
    """Return a function that updates the discriminator, then both translators, on the same translations.

    Args:
        optimizers: By "projected_discriminator" and "translators".
        seed: Of the orientations and the augmentation.
        xla: Whether the step is compiled by XLA.

    Returns:
        A function of the step, an integer, and images, uint8 (n, size, size, 3), of which the first half is of the
        first class. It returns a dict of scalar losses.
    """
    to_first, to_second = state.translators

    @tf.function(jit_compile=xla, autograph=False)
    def step_function(step, images):
        """Update all networks on one batch; see `make_step`."""
        # Three streams of random numbers: orientations, augmentation of translations and of real patches.
        seeds = [tf.stack([tf.constant(seed, tf.int64), 16 * step + index]) for index in range(3)]
        real = batches.random_dihedral(batches.to_float(images), seeds[0])
        first, second = tf.split(real, 2)
        labels = tf.repeat(tf.constant([0, 1]), tf.shape(first)[0])
        with tf.GradientTape() as tape:
            # `real` is the first class, then the second: each half is translated by one network and kept by the other.
            # A translator should not change patches of its target class (identity loss); computed in the same call.
            new_second, same_second = tf.split(to_second(real, training=True), 2)
            same_first, new_first = tf.split(to_first(real, training=True), 2)
            cycle = tf.reduce_mean(tf.abs(to_first(new_second, training=True) - first))
            cycle += tf.reduce_mean(tf.abs(to_second(new_first, training=True) - second))
            identity = tf.reduce_mean(tf.abs(same_first - first)) + tf.reduce_mean(tf.abs(same_second - second))
            fake_augmented = augment(tf.concat([new_first, new_second], 0), seeds[1])
            fake_maps = state.features(fake_augmented, training=False)
            real_maps = state.features(augment(real, seeds[2]), training=False)
            with tf.GradientTape() as projected_tape:
                maps = [tf.concat([x, tf.stop_gradient(y)], 0) for x, y in zip(real_maps, fake_maps, strict=True)]
                logits = state.projected_discriminator([*maps, tf.concat([labels, labels], 0)], training=True)
                projected_discriminator_loss = sum(discriminator_loss(*tf.split(logit, 2)) for logit in logits)
                scaled_loss = optimizers["projected_discriminator"].scale_loss(projected_discriminator_loss)
            variables = state.projected_discriminator.trainable_variables
            optimizers["projected_discriminator"].apply(projected_tape.gradient(scaled_loss, variables), variables)
            logits = state.projected_discriminator([*fake_maps, labels], training=False)
            translator_loss = sum(generator_loss(logit, "non_saturating") for logit in logits)
            total_loss = translator_loss + settings.cycle_loss_weight * cycle + settings.identity_loss_weight * identity
            scaled_loss = optimizers["translators"].scale_loss(total_loss)
        variables = state.translator_variables()
        optimizers["translators"].apply(tape.gradient(scaled_loss, variables), variables)
        count = tf.cast(step, tf.float32)
        # A shorter average at first, so that it forgets the untrained weights.
        decay = tf.minimum(settings.ema_decay, (1 + count) / (10 + count))
        for average, network in zip(state.averages, state.translators, strict=True):
            weights.update_ema(average.variables, network.variables, decay)
        return {
            "projected_discriminator_loss": projected_discriminator_loss, "translator_loss": translator_loss,
            "cycle_loss": cycle, "identity_loss": identity,
        }  # fmt: skip

    return step_function


def translate(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Translate patches, uint8 (n, size, size, 3), to the class of the translator `network`; the same shape."""
    translated = batches.map_in_batches(lambda part: network(batches.to_float(part), training=False), images)
    return np.rint(translated * 255).astype(np.uint8)


def _build_optimizers(state: TranslationState, learning_rate: float) -> dict[str, keras.optimizers.Optimizer]:
    """Return Adam for both translators together, and for the projected discriminator, by these names."""
    discriminator_variables = state.projected_discriminator.trainable_variables
    return {
        "translators": make_adam(learning_rate, state.translator_variables(), 0.5),
        "projected_discriminator": make_adam(learning_rate, discriminator_variables, 0.0),
    }


def _build_translation_state(width: int, size: int, class_names: tuple[str, str] = CLASSES) -> TranslationState:
    """Build the networks for patches of `size` pixels; `width` is the channels of the translators' largest maps."""
    translators = tuple(translator(width, f"to_{name}", size) for name in class_names)
    averages = tuple(translator(width, f"to_{name}", size) for name in class_names)
    for average, network in zip(averages, translators, strict=True):
        average.set_weights(network.get_weights())
    features = fast.fuse_model(imagenet_features(size))
    return TranslationState(translators, averages, features, projected_discriminator(features))
