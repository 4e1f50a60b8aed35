"""Self-supervision of EfficientNet-Lite0 on patches without labels: SimCLR (Chen et al. 2020), from ImageNet on.

Two views of a patch, differently turned, stained and cut, are to have more alike features than any two patches: what a
stain or a cut changes is unlearnt, what tells tissue apart is learnt, and no label is looked at.
"""

import shutil
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from bcgan import progress, runs
from bcgan.classify.train import schedule
from bcgan.data import batches
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment
from bcgan.models import fast, weights
from bcgan.models.efficientnet_lite import backbone, transfer_network
from bcgan.preprocess.store import Store
from bcgan.settings import Pretrain

NETWORK, SEEN = "simclr.keras", "pretraining_patients.json"
SHIPPED = Path(__file__).parents[1] / "shipped" / "simclr"
LOG_EVERY = 10
UNITS = (512, 128)  # of the head behind the pooled features, which is thrown away
DECAY = 1e-4


def seen_roles(settings: Pretrain) -> tuple[str, ...]:
    """Return the roles whose patches are used: never those of validation or test patients."""
    return ("train", "unlisted", "unlisted_other") if settings.include_unlisted else ("train",)


def pretrain(experiment: Experiment, store: Store, folder: Path, xla: bool) -> None:
    """Write simclr.keras, the network up to its pooled features, and pretraining_patients.json, its training patients.

    With `pretrain.weights: shipped` both are copies of the files in bcgan.

    Raises:
        InputError: If the weights in bcgan were trained on patients who are validation or test patients here.
        WorkError: If the loss is NaN or infinite; the last checkpoint is kept.
    """
    settings, index = experiment.pretrain, store.index
    if settings.weights == "shipped":
        held_out = index["patient"][index["role"].str.removesuffix("_other").isin(["validation", "test"])]
        if known_patients := sorted(seen(SHIPPED) & set(held_out)):
            raise InputError(
                f"pretrain.weights: shipped was trained on {len(known_patients)} patients (first: {known_patients[0]}) "
                "who are validation or test patients here. Train on this split instead: pretrain.weights=none, "
                "pretrain.steps=2250. If they are other patients with the same names, rename them."
            )
        for name in (SEEN, NETWORK):
            shutil.copyfile(SHIPPED / name, folder / name)
        return
    rows = np.flatnonzero(index["role"].isin(seen_roles(settings)))
    train(store.images[rows], settings, experiment.seed, folder, xla)
    patients = sorted(index["patient"].iloc[rows].unique().tolist())
    runs.write_json(folder / SEEN, {"patches": len(rows), "patients": patients})


def seen(folder: Path) -> set[str]:
    """Return the patients that the network in `folder` was trained on; empty if there is no network."""
    path = folder / SEEN
    return set(runs.read_json(path)["patients"]) if path.exists() else set()


def train(images: np.ndarray, settings: Pretrain, seed: int, folder: Path, xla: bool) -> None:
    """Train and write simclr.keras and log.jsonl.

    An interruption leaves checkpoint.npz; calling again with the same arguments resumes.

    Args:
        images: uint8, (n, size, size, 3).

    Raises:
        WorkError: If the loss is NaN or infinite; the last checkpoint is kept.
    """
    keras.utils.set_random_seed(seed)
    network = transfer_network(images.shape[1])
    x = network.layers[-1].input  # without dropout
    x = layers.Dense(UNITS[0], "relu", dtype="float32", name="hidden")(x)
    joined = keras.Model(network.input, layers.Dense(UNITS[1], dtype="float32", name="projection")(x))
    batch = min(settings.batch_size, len(images))
    rates = schedule(settings.learning_rate, settings.steps, max(1, settings.steps // 100))
    optimizer = keras.optimizers.AdamW(rates, weight_decay=DECAY)
    optimizer.build(joined.trainable_variables)
    groups = {"network": joined.variables, "optimizer": optimizer.variables}
    checkpoint, log_path = folder / "checkpoint.npz", folder / "log.jsonl"
    start = weights.restore(checkpoint, groups)
    progress.keep_lines(log_path, "step", start)
    step_function = make_step(joined, optimizer, settings, seed, xla)
    sampler = batches.shuffled(np.arange(len(images)), batch, seed)
    stream = batches.stream(images, np.zeros(len(images), int), sampler, range(start, settings.steps))

    began = time.monotonic()
    with progress.bar(settings.steps, "pretrain", start=start) as bar:
        for step, patches, _ in stream:
            loss, accuracy = (float(value) for value in step_function(step, patches))
            done = int(step) + 1
            if not np.isfinite(loss):
                raise WorkError(
                    f"pretrain: the loss is NaN or infinite at step {done}. No model was written; lower "
                    f"pretrain.learning_rate ({settings.learning_rate})."
                )
            if int(step) % LOG_EVERY == 0 or done == settings.steps:
                rate = (done - start) * batch / (time.monotonic() - began)
                progress.write_line(
                    log_path, step=int(step), loss=loss, accuracy=accuracy, images_per_second=round(rate, 1)
                )
            if done % settings.checkpoint_interval == 0 and done < settings.steps:
                weights.save(checkpoint, done, groups)
            bar.set_postfix(loss=f"{loss:.2f}", accuracy=f"{accuracy:.0%}", refresh=False)
            bar.update()
    weights.save_model(backbone(network), folder / NETWORK)
    checkpoint.unlink(missing_ok=True)


def make_step(joined: keras.Model, optimizer, settings: Pretrain, seed: int, xla: bool):
    """One update on two views of every patch; gives what `contrast` gives."""
    fused = fast.fuse_model(joined)

    def view(images, number):
        seeds = [tf.stack([tf.constant(seed + 2, tf.int64), number + place]) for place in range(4)]
        images = batches.dihedral(images, seeds[0])
        images = batches.stain_jitter(images, seeds[1], settings.stain_jitter)
        images = batches.color_jitter(images, seeds[2], settings.color_jitter)
        return batches.cut(images, seeds[3], settings.min_crop_scale)

    @tf.function(jit_compile=xla)
    def step_function(step, images):
        images = batches.scale(images)
        both = tf.concat([view(images, 8 * step), view(images, 8 * step + 4)], 0)
        with tf.GradientTape() as tape:
            loss, accuracy = contrast(fused(both, training=True), settings.temperature)
        variables = joined.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, accuracy

    return step_function


def contrast(projected: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The normalised, temperature-scaled cross entropy, and the share of views whose nearest other is their partner.

    Args:
        projected: float32, (2n, units). Row i and row n + i are views of one patch.
    """
    projected = tf.math.l2_normalize(projected, -1)
    count = tf.shape(projected)[0]
    similarity = projected @ tf.transpose(projected) / temperature
    similarity = tf.linalg.set_diag(similarity, tf.fill((count,), -1e9))  # a view is not compared with itself
    partner = (tf.range(count) + count // 2) % count
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(partner, similarity)
    is_correct = tf.argmax(similarity, -1, output_type=partner.dtype) == partner
    return tf.reduce_mean(loss), tf.reduce_mean(tf.cast(is_correct, tf.float32))
