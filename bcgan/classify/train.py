"""Training of one classifier: the best epoch by validation AUC of the averaged weights is what is kept."""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import log_loss, roc_auc_score

from bcgan import distribute, progress
from bcgan.classify.losses import class_weights, loss
from bcgan.classify.scoring import scorer
from bcgan.data import batches
from bcgan.data.views import central
from bcgan.errors import WorkError
from bcgan.models import fast, weights
from bcgan.settings import Classifier, Classify

OPTIMIZERS = {
    "adamw": keras.optimizers.AdamW, "adam": keras.optimizers.Adam, "nadam": keras.optimizers.Nadam,
    "sgd": partial(keras.optimizers.SGD, momentum=0.9, nesterov=True), "rmsprop": keras.optimizers.RMSprop,
    "lion": keras.optimizers.Lion,
}  # fmt: skip
STATISTICS_MOMENTUM = 0.9  # Keras's 0.99 needs hundreds of steps to leave its start, and a short training has fewer


class Patches(NamedTuple):
    """images: uint8, (n, size, size, 3). labels: 0 or 1, or anything between where a teacher is not sure, (n,)."""

    images: np.ndarray
    labels: np.ndarray


class TrainingData(NamedTuple):
    """The patches of a training.

    real: labelled training patches.
    extra: synthetic or distilled patches, `Classifier.extra_fraction` of every batch; `None`: real patches alone.
    validation: patches that select the epoch; `None`: the last epoch is kept.
    """

    real: Patches
    extra: Patches | None = None
    validation: Patches | None = None


class Recipe(NamedTuple):
    """How a classifier is trained.

    classify: settings of every classifier. classifier: settings of this one. seed: of everything random.
    xla: whether steps are compiled by XLA. epoch_steps: steps of an epoch; `None`: one pass over the real patches.
    augment: whether patches are turned, mirrored and their colors jittered.
    """

    classify: Classify
    classifier: Classifier
    seed: int = 0
    xla: bool = False
    epoch_steps: int | None = None
    augment: bool = True


class Sampling(NamedTuple):
    """What a training draws from: a pool of patches, which of them a step sees, the steps of an epoch, and the loss's
    weights of benign and malignant patches."""

    pool: Patches
    sampler: batches.Sampler
    epoch_steps: int
    class_weight: tuple[float, float]


def train(network: keras.Model, data: TrainingData, recipe: Recipe, path: Path) -> None:
    """Train a classifier and write `path` (.keras), and a line for each epoch beside it (.jsonl).

    An interruption leaves a checkpoint of the last full epoch; calling again with the same arguments resumes.

    Args:
        network: As `bcgan.models.classifier` builds it.

    Raises:
        WorkError: If the loss is NaN or infinite.
    """
    settings, classifier_settings, validation = recipe.classify, recipe.classifier, data.validation
    _follow_statistics(network)
    sampling = _build_sampling(data, recipe)
    epochs, epoch_steps = classifier_settings.epochs, sampling.epoch_steps
    average = keras.models.clone_model(network)
    average.set_weights(network.get_weights())
    distribute.synchronise(network)
    best = [keras.Variable(variable) for variable in average.variables]
    best_auc = keras.Variable(-1.0, dtype="float32")
    optimizer = make_optimizer(network, classifier_settings, settings, epoch_steps)
    state = {
        "network": network.variables,
        "average": average.variables,
        "best": [*best, best_auc],
        "optimizer": optimizer.variables,
    }
    checkpoint, log_path = path.with_suffix(".checkpoint.npz"), path.with_suffix(".jsonl")
    start = weights.restore(checkpoint, state)
    progress.keep_lines(log_path, "epoch", start)
    step_function = make_step(network, average, optimizer, recipe, sampling.class_weight)
    score = scorer(average)

    with progress.bar(epochs * epoch_steps, path.stem, start=start * epoch_steps) as bar:
        for epoch in range(start, epochs):
            began = time.monotonic()
            steps = range(epoch * epoch_steps, (epoch + 1) * epoch_steps)
            stream = batches.stream(*sampling.pool, sampling.sampler, steps, settings.crop_size, recipe.seed)
            values = []
            for step, images, labels in stream:
                values.append([float(value) for value in step_function(step, images, labels)])
                bar.update()
            probabilities = score(central(validation.images, settings.crop_size)).astype(float) if validation else None
            if not np.isfinite(values).all() or (validation and not np.isfinite(probabilities).all()):
                raise WorkError(
                    f"classify: {path.stem}: the loss is NaN or infinite in epoch {epoch + 1}. "
                    f"Lower classify.models.*.learning_rate ({classifier_settings.learning_rate}), or set "
                    "precision=float32."
                )
            line = _validate(probabilities, validation.labels) if validation else {}
            area = line.get("validation_roc_auc", epoch)
            if area > float(np.asarray(best_auc)):
                best_auc.assign(area)
                for best_variable, variable in zip(best, average.variables, strict=True):
                    best_variable.assign(variable)
            mean_loss, accuracy = np.mean(values, 0)
            seconds = round(time.monotonic() - began, 2)
            line = {"loss": mean_loss, "accuracy": accuracy, **line, "seconds": seconds}
            progress.write_line(log_path, epoch=epoch, **line)
            weights.save(checkpoint, epoch + 1, state)
            if validation:
                bar.set_postfix(AUC=f"{area:.3f}", refresh=False)
    for best_variable, variable in zip(best, average.variables, strict=True):
        variable.assign(best_variable)
    weights.save_model(average, path)
    checkpoint.unlink(missing_ok=True)


def _build_sampling(data: TrainingData, recipe: Recipe) -> Sampling:
    """Return what a training draws from."""
    settings, (real, extra, _), seed = recipe.classify, data, recipe.seed
    fraction = recipe.classifier.extra_fraction
    count = min(round(settings.batch_size * fraction), settings.batch_size - 1) if extra else 0
    fresh = min(settings.batch_size - count, len(real.labels))
    sampler, malignant = batches.shuffled(np.arange(len(real.labels)), fresh, seed), np.mean(real.labels)
    epoch_steps, pool = recipe.epoch_steps or max(1, len(real.labels) // fresh), real
    if extra and count:
        pool = Patches(*(np.concatenate(pair) for pair in zip(real, extra, strict=True)))
        extra_rows = np.arange(len(real.labels), len(pool.labels))
        part = count / (count + fresh)
        malignant = (1 - part) * malignant + part * np.mean(extra.labels)
        sampler = batches.mixed(sampler, extra_rows, count, seed)
    return Sampling(pool, sampler, epoch_steps, class_weights(malignant))


def _validate(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "validation_loss": float(log_loss(labels, np.clip(probabilities, 1e-7, 1 - 1e-7))),
        "validation_accuracy": float(np.mean((probabilities > 0.5) == labels)),
        "validation_roc_auc": float(roc_auc_score(labels, probabilities)),
    }


def _follow_statistics(network: keras.Model) -> None:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            _follow_statistics(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = STATISTICS_MOMENTUM


def schedule(rate: float, steps: int, warm: int) -> keras.optimizers.schedules.CosineDecay:
    """From a tenth of the rate up to it in `warm` steps, then down to a hundredth as a cosine."""
    return keras.optimizers.schedules.CosineDecay(
        rate / 10, max(1, steps - warm), alpha=0.01, warmup_target=rate, warmup_steps=warm
    )


def make_optimizer(network: keras.Model, classifier_settings: Classifier, settings: Classify, epoch_steps: int):
    steps = classifier_settings.epochs * epoch_steps
    rates = schedule(classifier_settings.learning_rate, steps, max(1, min(steps // 10, epoch_steps)))
    optimizer = OPTIMIZERS[settings.optimizer](rates, weight_decay=settings.weight_decay)
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


def make_step(
    network: keras.Model,
    average: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    recipe: Recipe,
    class_weight: tuple[float, float],
):
    """Return a function that updates the network and its average from a batch, and returns loss and accuracy.

    Args:
        class_weight: The loss's weights of benign and malignant patches.
    """
    settings, seed, augment = recipe.classify, recipe.seed, recipe.augment
    fused = fast.fuse_model(network)

    def update(step, images, labels):
        seeds = [tf.stack([tf.constant(seed + 1, tf.int64), 3 * step + number]) for number in range(3)]
        images = batches.scale(images)
        if augment:
            images = batches.dihedral(images, seeds[0])
        if augment and settings.stain_jitter:
            images = batches.stain_jitter(images, seeds[1], settings.stain_jitter)
        if augment and settings.color_jitter:
            images = batches.color_jitter(images, seeds[2], settings.color_jitter)
        images, labels = distribute.own(images), distribute.own(labels)
        with tf.GradientTape() as tape:
            logits = fused(images, training=True)[:, 0]
            value = loss(logits, labels, settings.loss, class_weight)
            scaled = optimizer.scale_loss(value / distribute.replicas())
        variables = network.trainable_variables
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return value, tf.reduce_mean(tf.cast((logits > 0) == (2 * labels > 1), tf.float32))

    update_everywhere = distribute.everywhere(update)

    @tf.function(jit_compile=recipe.xla)
    def step_function(step, images, labels):
        metrics, count = update_everywhere(step, images, labels), tf.cast(step, tf.float32)
        weights.move_average(
            average.variables, network.variables, tf.minimum(settings.ema_decay, (1 + count) / (10 + count))
        )
        return metrics

    return step_function
