"""Training of the cycle-consistent GAN: unpaired benign and malignant patches, each translated and back."""

import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bcgan import progress
from bcgan.data import batches
from bcgan.data.builders import CLASSES
from bcgan.errors import WorkError
from bcgan.experiment import Translate
from bcgan.gan.augment import augment
from bcgan.gan.losses import discriminator_loss, generator_loss
from bcgan.gan.train import LOG_EVERY, adam
from bcgan.models import weights
from bcgan.models.translator import judge_of_places, translator

BATCH = 256


class Sides(NamedTuple):
    """One network for each class, at its label's place: translators[1] makes malignant patches of benign ones, and
    judges[1] says what looks malignant."""

    translators: tuple[keras.Model, keras.Model]
    averages: tuple[keras.Model, keras.Model]
    judges: tuple[keras.Model, keras.Model]

    def variables(self, kind: str) -> list:
        return [variable for network in getattr(self, kind) for variable in network.trainable_variables]


def train(images: np.ndarray, labels: np.ndarray, settings: Translate, seed: int, folder: Path, xla: bool) -> None:
    """Train and write to_benign.keras and to_malignant.keras (averaged) and log.jsonl.

    A kill leaves checkpoint.npz; calling again with the same arguments goes on from there.

    Args:
        images: uint8, (n, 50, 50, 3). Training patients' patches alone.
        labels: integers, (n,). 0 benign, 1 malignant.

    Raises:
        WorkError: a loss is no number any more; the last checkpoint is kept.
    """
    sides = _start_sides(settings.width)
    optimizers = {kind: adam(settings.rate, sides.variables(kind), 0.5) for kind in ("translators", "judges")}
    groups = {
        **{kind: [variable for network in getattr(sides, kind) for variable in network.variables]
           for kind in Sides._fields},
        **{f"{kind}_optimizer": optimizer.variables for kind, optimizer in optimizers.items()},
    }  # fmt: skip
    checkpoint, log_path = folder / "checkpoint.npz", folder / "log.jsonl"
    start = weights.restore(checkpoint, groups)
    progress.keep_lines(log_path, "step", start)
    step_function = make_step(sides, optimizers, settings, seed, xla)
    # The sampler's batch is benign first, then as many malignant ones.
    sampler = batches.balanced(np.arange(len(images)), labels, 2 * (settings.batch // 2), seed)
    stream = batches.stream(images, labels, sampler, range(start, settings.steps))

    began = time.monotonic()
    with progress.bar(settings.steps, "translate", start=start) as bar:
        for step, patches, _ in stream:
            values = {name: float(value) for name, value in step_function(step, patches).items()}
            done = int(step) + 1
            if not np.isfinite(list(values.values())).all():
                raise WorkError(
                    f"translate: a loss is no number any more at step {done} ({values}). No model was written; "
                    "lower translate.rate, or set precision=float32."
                )
            if int(step) % LOG_EVERY == 0 or done == settings.steps:
                rate = (done - start) * settings.batch / (time.monotonic() - began)
                progress.write_line(log_path, step=int(step), images_per_second=round(rate, 1), **values)
            if done % settings.checkpoint_every == 0 and done < settings.steps:
                weights.save(checkpoint, done, groups)
            bar.set_postfix(cycle=f"{values['cycle_loss']:.3f}", G=f"{values['translator_loss']:.2f}", refresh=False)
            bar.update()
    for name, average in zip(CLASSES, sides.averages, strict=True):
        weights.save_model(average, folder / f"to_{name}.keras")
    checkpoint.unlink(missing_ok=True)


def make_step(sides: Sides, optimizers: dict, settings: Translate, seed: int, xla: bool):
    """One update of both judges, then one of both translators, on the same translations, made once."""
    (to_benign, to_malignant), (benign_judge, malignant_judge) = sides.translators, sides.judges

    @tf.function(jit_compile=xla)
    def step_function(step, images):
        seeds = [tf.stack([tf.constant(seed, tf.int64), 5 * step + place]) for place in range(5)]
        benign, malignant = tf.split(batches.dihedral(batches.scale(images), seeds[0]), 2)
        with tf.GradientTape() as tape:
            # What a translator makes of its own class, it should leave as it is; computed in the same call.
            new_malignant, same_malignant = tf.split(to_malignant(tf.concat([benign, malignant], 0), training=True), 2)
            new_benign, same_benign = tf.split(to_benign(tf.concat([malignant, benign], 0), training=True), 2)
            cycle = tf.reduce_mean(tf.abs(to_benign(new_malignant, training=True) - benign))
            cycle += tf.reduce_mean(tf.abs(to_malignant(new_benign, training=True) - malignant))
            identity = tf.reduce_mean(tf.abs(same_benign - benign))
            identity += tf.reduce_mean(tf.abs(same_malignant - malignant))
            sides_seen = zip((benign, new_benign, malignant, new_malignant), seeds[1:], strict=True)
            seen = [augment(x, seeds) for x, seeds in sides_seen]
            with tf.GradientTape() as judge_tape:
                real, fake = zip(
                    *(
                        tf.split(judge(tf.concat([a, tf.stop_gradient(b)], 0), training=True), 2)
                        for judge, a, b in ((benign_judge, *seen[:2]), (malignant_judge, *seen[2:]))
                    ),
                    strict=True,
                )
                judge_loss = sum(map(discriminator_loss, real, fake))
                scaled = optimizers["judges"].scale_loss(judge_loss)
            variables = sides.variables("judges")
            optimizers["judges"].apply(judge_tape.gradient(scaled, variables), variables)
            make_loss = generator_loss(benign_judge(seen[1], training=False), "non_saturating")
            make_loss += generator_loss(malignant_judge(seen[3], training=False), "non_saturating")
            total = make_loss + settings.cycle * cycle + settings.identity * identity
            scaled = optimizers["translators"].scale_loss(total)
        variables = sides.variables("translators")
        optimizers["translators"].apply(tape.gradient(scaled, variables), variables)
        count = tf.cast(step, tf.float32)
        decay = tf.minimum(settings.average, (1 + count) / (10 + count))
        for average, network in zip(sides.averages, sides.translators, strict=True):
            weights.move_average(average.variables, network.variables, decay)
        return {
            "judge_loss": judge_loss, "translator_loss": make_loss, "cycle_loss": cycle, "identity_loss": identity,
        }  # fmt: skip

    return step_function


def translate(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Patches as a translator turns them; uint8 (n, 50, 50, 3) to the same."""
    made = [
        network(batches.scale(images[start : start + BATCH]), training=False).numpy()
        for start in range(0, len(images), BATCH)
    ]
    return np.rint(np.concatenate(made) * 255).astype(np.uint8)


def _start_sides(width: int) -> Sides:
    translators = tuple(translator(width, f"to_{name}") for name in CLASSES)
    averages = tuple(translator(width, f"to_{name}") for name in CLASSES)
    for average, network in zip(averages, translators, strict=True):
        average.set_weights(network.get_weights())
    return Sides(translators, averages, tuple(judge_of_places(name=f"{name}_judge") for name in CLASSES))
