"""Pretrain EfficientNet-Lite0 on patches without labels by SimCLR (Chen et al. 2020), starting from ImageNet's weights.

The contrastive loss makes the features of two random augmentations of a patch more similar than those of different
patches. Augmentations are orientation, stain, color and crop.
"""

import shutil
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from bcgan import progress, runs
from bcgan.classify.train import warmup_cosine_schedule
from bcgan.data import batches
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment
from bcgan.models import fast, optimizers, weights
from bcgan.models.efficientnet_lite import get_backbone, transfer_network
from bcgan.preprocess.store import Store
from bcgan.settings import SHIPPED_SIMCLR, Pretrain

NETWORK, PATIENTS = "simclr.keras", "pretraining_patients.json"
LOG_EVERY = 10
HEAD_UNITS = (512, 128)  # of the projection head on the pooled features, which is discarded after training
WEIGHT_DECAY = 1e-4


def pretraining_roles(settings: Pretrain) -> tuple[str, ...]:
    """Return the roles whose patches are used, which are never those of validation or test patients."""
    return ("train", "unlisted", "unlisted_other") if settings.include_unlisted else ("train",)


def pretrain(experiment: Experiment, store: Store, folder: Path, xla: bool) -> None:
    """Write simclr.keras, EfficientNet-Lite0 pretrained without labels, and pretraining_patients.json.

    The network ends at its pooled features. The JSON file has the number of patches and the patients that it was
    trained on. With `pretrain.weights: shipped` both are copies of the files bundled with bcgan.

    Args:
        folder: Of the stage, for both files.
        xla: Whether training steps are compiled by XLA.

    Raises:
        InputError: If the weights in bcgan were trained on patients who are validation or test patients here.
        WorkError: If the loss is NaN or infinite; the last checkpoint is kept.
    """
    settings, index = experiment.pretrain, store.index
    if settings.weights == "shipped":
        # Held-out patches of sources other than data.eval_sources have the suffix _other.
        held_out = index["patient"][index["role"].str.removesuffix("_other").isin(["validation", "test"])]
        if known_patients := sorted(pretraining_patients(SHIPPED_SIMCLR) & set(held_out)):
            raise InputError(
                f"pretrain.weights: shipped was trained on {len(known_patients)} patients (first: {known_patients[0]}) "
                "who are validation or test patients here. Train on this split instead: pretrain.weights=none, "
                "pretrain.steps=2250. If they are other patients with the same names, rename them."
            )
        for name in (PATIENTS, NETWORK):
            shutil.copyfile(SHIPPED_SIMCLR / name, folder / name)
        return
    rows = np.flatnonzero(index["role"].isin(pretraining_roles(settings)))
    train(store.images.select(rows), settings, experiment.seed, folder, xla)
    patients = sorted(index["patient"].iloc[rows].unique().tolist())
    runs.write_json(folder / PATIENTS, {"patches": len(rows), "patients": patients})


def pretraining_patients(folder: Path) -> set[str]:
    """Return the patients that the network in `folder` was trained on; empty if there is no network."""
    path = folder / PATIENTS
    return set(runs.read_json(path)["patients"]) if path.exists() else set()


def train(images: np.ndarray, settings: Pretrain, seed: int, folder: Path, xla: bool) -> None:
    """Train the network and write simclr.keras and log.jsonl.

    An interruption leaves checkpoint.npz; calling again with the same arguments resumes.

    Args:
        images: uint8, (n, size, size, 3).

    Raises:
        WorkError: If the loss is NaN or infinite; the last checkpoint is kept.
    """
    keras.utils.set_random_seed(seed)
    network = transfer_network(images.shape[1])
    x = network.layers[-1].input  # without dropout
    x = layers.Dense(HEAD_UNITS[0], "relu", dtype="float32", name="hidden")(x)
    projector = keras.Model(network.input, layers.Dense(HEAD_UNITS[1], dtype="float32", name="projection")(x))
    batch_size = min(settings.batch_size, len(images))
    schedule = warmup_cosine_schedule(settings.learning_rate, settings.steps, max(1, settings.steps // 100))
    optimizer = optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
    optimizer.build(projector.trainable_variables)
    groups = {"network": projector.variables, "optimizer": optimizer.variables}
    checkpoint, log_path = folder / "checkpoint.npz", folder / "log.jsonl"
    start = weights.restore(checkpoint, groups)
    progress.truncate_jsonl(log_path, "step", start)
    step_function = make_step(projector, optimizer, settings, seed, xla)
    sampler = batches.epoch_sampler(np.arange(len(images)), batch_size, seed)
    dataset = batches.make_dataset(images, np.zeros(len(images), int), sampler, range(start, settings.steps))

    start_time = time.monotonic()
    with progress.bar(settings.steps, "pretrain", start=start) as bar:
        for step, patches, _ in dataset:
            loss, accuracy = (float(value) for value in step_function(step, patches))
            num_done = int(step) + 1
            if not np.isfinite(loss):
                raise WorkError(
                    f"pretrain: the loss is NaN or infinite at step {num_done}. No model was written; lower "
                    f"pretrain.learning_rate ({settings.learning_rate})."
                )
            if int(step) % LOG_EVERY == 0 or num_done == settings.steps:
                speed = (num_done - start) * batch_size / (time.monotonic() - start_time)
                progress.append_jsonl(
                    log_path, step=int(step), loss=loss, accuracy=accuracy, images_per_second=round(speed, 1)
                )
            if num_done % settings.checkpoint_interval == 0 and num_done < settings.steps:
                weights.save(checkpoint, num_done, groups)
            bar.set_postfix(loss=f"{loss:.2f}", accuracy=f"{accuracy:.0%}", refresh=False)
            bar.update()
    weights.save_model(get_backbone(network), folder / NETWORK)
    checkpoint.unlink(missing_ok=True)


def make_step(projector: keras.Model, optimizer, settings: Pretrain, seed: int, xla: bool):
    """Return a function that updates the network on two random views of every patch.

    Args:
        projector: The network with its projection head.
        xla: Whether the function is compiled by XLA.

    Returns:
        A function of the step, an integer, and patches, uint8, (n, size, size, 3). It returns the scalars loss and
        accuracy.
    """
    fused = fast.fuse_model(projector)

    def random_view(images, first_seed):
        """Return a random augmentation of patches, float32 in [0, 1]; it uses the seeds from `first_seed` to + 3."""
        seeds = [tf.stack([tf.constant(seed + 2, tf.int64), first_seed + offset]) for offset in range(4)]
        images = batches.random_dihedral(images, seeds[0])
        images = batches.stain_jitter(images, seeds[1], settings.stain_jitter)
        images = batches.color_jitter(images, seeds[2], settings.color_jitter)
        return batches.random_resized_crop(images, seeds[3], settings.min_crop_scale)

    @tf.function(jit_compile=xla, autograph=False)
    def step_function(step, images):
        """Update the network on a batch, and return loss and accuracy."""
        images = batches.to_float(images)
        # Eight seeds a step: four for each view.
        views = tf.concat([random_view(images, 8 * step), random_view(images, 8 * step + 4)], 0)
        with tf.GradientTape() as tape:
            loss, accuracy = nt_xent_loss(fused(views, training=True), settings.temperature)
        variables = projector.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, accuracy

    return step_function


def nt_xent_loss(projected: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the normalized temperature-scaled cross-entropy loss of SimCLR, and its accuracy.

    Args:
        projected: float32, (2n, units). Rows i and n + i are views of the same patch.

    Returns:
        Scalars: the loss, and the fraction of views whose most similar other view is of the same patch.
    """
    projected = tf.math.l2_normalize(projected, -1)
    count = tf.shape(projected)[0]
    similarity = projected @ tf.transpose(projected) / temperature
    similarity = tf.linalg.set_diag(similarity, tf.fill((count,), -1e9))  # a view is not compared with itself
    partner = (tf.range(count) + count // 2) % count
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(partner, similarity)
    is_correct = tf.argmax(similarity, -1, output_type=partner.dtype) == partner
    return tf.reduce_mean(loss), tf.reduce_mean(tf.cast(is_correct, tf.float32))
