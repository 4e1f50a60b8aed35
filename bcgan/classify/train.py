"""Train one classifier; the averaged weights of the epoch with the best validation ROC AUC are kept."""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import log_loss, roc_auc_score

from bcgan import distribute, progress
from bcgan.classify.losses import batch_loss, class_weights
from bcgan.classify.scoring import make_predict_fn
from bcgan.data import batches
from bcgan.data.rows import ImageRows
from bcgan.data.views import center_crop
from bcgan.errors import WorkError
from bcgan.models import fast, optimizers, weights
from bcgan.preprocess.store import Store
from bcgan.settings import Classifier, Classify

OPTIMIZERS = {
    "adamw": optimizers.AdamW, "adam": optimizers.Adam, "nadam": keras.optimizers.Nadam,
    "sgd": partial(keras.optimizers.SGD, momentum=0.9, nesterov=True), "rmsprop": keras.optimizers.RMSprop,
    "lion": keras.optimizers.Lion,
}  # fmt: skip
BATCH_NORM_MOMENTUM = 0.9  # with Keras's 0.99 the statistics need hundreds of steps, and a short training has fewer


class Patches(NamedTuple):
    """Labeled patches."""

    images: np.ndarray | ImageRows  # uint8, (n, size, size, 3)
    labels: np.ndarray  # integers, (n,)
    patients: np.ndarray | None = None  # of each patch, (n,); read if patients are balanced


class TrainingData(NamedTuple):
    """The patches of a training.

    Attributes:
        real: Labeled training patches.
        synthetic: Patches that are `Classifier.synthetic_fraction` of every batch. `None` means real patches only.
        validation: Patches that select the epoch. `None` means that the last epoch is kept.
    """

    real: Patches
    synthetic: Patches | None = None
    validation: Patches | None = None


class Recipe(NamedTuple):
    """How a classifier is trained.

    Attributes:
        classify: Settings shared by all classifiers.
        classifier: Settings of this classifier.
        seed: Of all random numbers.
        xla: Whether steps are compiled by XLA.
        epoch_steps: Steps of an epoch. `None` means one pass over the real patches.
        augment: Whether patches get random orientations, stains and colors.
        inverse_penalty: Of the logistic regression of a frozen network's head. `None` means that the validation patches
            select it.
    """

    classify: Classify
    classifier: Classifier
    seed: int = 0
    xla: bool = False
    epoch_steps: int | None = None
    augment: bool = True
    inverse_penalty: float | None = None


class Sampling(NamedTuple):
    """How batches are drawn."""

    pool: Patches  # real patches, then synthetic ones
    sampler: batches.Sampler  # from a step to indices into the pool
    epoch_steps: int
    class_weight: tuple[float, ...]  # of the classes in the loss


def select_patches(store: Store, rows: np.ndarray) -> Patches:
    """Return patches of a store, given by their indices, with their labels and patients."""
    return Patches(*store.select(rows), store.index["patient"].to_numpy()[rows])


def sample_weights(patches: Patches, patient_balance: float) -> np.ndarray:
    """Return how often each patch is drawn relative to the mean, float, (n,).

    Args:
        patient_balance: A patch of a patient with n patches is drawn n^-patient_balance times as often: 0 draws all
            patches equally often, 1 all patients.

    Raises:
        ValueError: If patients are balanced and not known.
    """
    if not patient_balance:
        return np.ones(len(patches.labels))
    if patches.patients is None:
        raise ValueError(f"patches need patients. Received: patients=None, patient_balance={patient_balance}")
    _, patient_of, counts = np.unique(patches.patients, return_inverse=True, return_counts=True)
    relative = counts[patient_of].astype(float) ** -patient_balance
    return relative / relative.mean()


def train(network: keras.Model, data: TrainingData, recipe: Recipe, path: Path) -> None:
    """Train a classifier and write `path` (.keras), and next to it a line for each epoch (.jsonl).

    An interruption leaves a checkpoint of the last full epoch; calling again with the same arguments resumes.

    Args:
        network: As `bcgan.models.classifier` builds it.

    Raises:
        WorkError: If the loss is NaN or infinite.
    """
    settings, validation, epochs = recipe.classify, data.validation, recipe.classifier.epochs
    _set_batch_norm_momentum(network)
    sampling = _build_sampling(data, recipe, max(2, network.output_shape[-1]))
    epoch_steps = sampling.epoch_steps
    state = _build_state(network, recipe, epoch_steps)
    checkpoint, log_path = path.with_suffix(".checkpoint.npz"), path.with_suffix(".jsonl")
    groups = state.groups()
    start = weights.restore(checkpoint, groups)
    progress.truncate_jsonl(log_path, "epoch", start)
    step_function = make_step(network, state.average, state.optimizer, recipe, sampling.class_weight)
    predict = make_predict_fn(state.average)

    with progress.bar(epochs * epoch_steps, path.stem, start=start * epoch_steps) as bar:
        for epoch in range(start, epochs):
            start_time = time.monotonic()
            steps = range(epoch * epoch_steps, (epoch + 1) * epoch_steps)
            pool = sampling.pool
            dataset = batches.make_dataset(
                pool.images, pool.labels, sampling.sampler, steps, settings.crop_size, recipe.seed
            )
            step_metrics = []
            for step, images, labels in dataset:
                step_metrics.append([float(value) for value in step_function(step, images, labels)])
                bar.update()
            check_finite(step_metrics, path.stem, epoch, recipe)
            validation_metrics = {}
            if validation:
                probabilities = predict(center_crop(validation.images, settings.crop_size)).astype(float)
                check_finite(probabilities, path.stem, epoch, recipe)
                measured = measure(probabilities, validation.labels)
                validation_metrics = {f"validation_{name}": value for name, value in measured.items()}
            roc_auc = validation_metrics.get("validation_roc_auc", epoch)  # without validation the last epoch is best
            state.keep_if_best(roc_auc)
            mean_loss, accuracy = np.mean(step_metrics, 0)
            seconds = round(time.monotonic() - start_time, 2)
            metrics = {"loss": mean_loss, "accuracy": accuracy, **validation_metrics, "seconds": seconds}
            progress.append_jsonl(log_path, epoch=epoch, **metrics)
            weights.save(checkpoint, epoch + 1, groups)
            if validation:
                bar.set_postfix(AUC=f"{roc_auc:.3f}", refresh=False)
    state.restore_best()
    weights.save_model(state.average, path)
    checkpoint.unlink(missing_ok=True)


class _TrainingState(NamedTuple):
    """What a training changes, and so what a checkpoint has to contain."""

    network: keras.Model
    average: keras.Model  # its weights are the exponential moving averages of the network's
    best: list[keras.Variable]  # the average's variables after the best epoch
    best_auc: keras.Variable
    optimizer: keras.optimizers.Optimizer

    def groups(self) -> weights.Groups:
        """Return the variables of a checkpoint, by name."""
        return {
            "network": self.network.variables,
            "average": self.average.variables,
            "best": [*self.best, self.best_auc],
            "optimizer": self.optimizer.variables,
        }

    def keep_if_best(self, roc_auc: float) -> None:
        """Copy the averaged weights to `best` if this ROC AUC is the largest so far."""
        if roc_auc > float(np.asarray(self.best_auc)):
            self.best_auc.assign(roc_auc)
            for best, variable in zip(self.best, self.average.variables, strict=True):
                best.assign(variable)

    def restore_best(self) -> None:
        """Copy the weights of the best epoch to the averaged network."""
        for best, variable in zip(self.best, self.average.variables, strict=True):
            variable.assign(best)


def _build_state(network: keras.Model, recipe: Recipe, epoch_steps: int) -> _TrainingState:
    """Return the state of a new training: the averaged and the best weights start as the network's.

    Args:
        epoch_steps: Steps of an epoch, for the schedule of the learning rate.
    """
    average = keras.models.clone_model(network)
    average.set_weights(network.get_weights())
    distribute.synchronize_batch_norm(network)
    best = [keras.Variable(variable) for variable in average.variables]
    best_auc = keras.Variable(-1.0, dtype="float32")  # below any, so that the first epoch is kept
    optimizer = make_optimizer(network, recipe.classifier, recipe.classify, epoch_steps)
    return _TrainingState(network, average, best, best_auc, optimizer)


def check_finite(values: list | np.ndarray, name: str, epoch: int, recipe: Recipe) -> None:
    """Raise WorkError if losses or probabilities are NaN or infinite."""
    if not np.isfinite(values).all():
        raise WorkError(
            f"classify: {name}: the loss is NaN or infinite in epoch {epoch + 1}. Lower "
            f"classify.models.*.learning_rate ({recipe.classifier.learning_rate}), or set precision=float32."
        )


def _class_fractions(labels: np.ndarray, num_classes: int, patch_weights: np.ndarray | None = None) -> np.ndarray:
    """Return the fraction of drawn patches that each class has; `patch_weights` are those of `sample_weights`."""
    return np.bincount(labels, patch_weights, minlength=num_classes) / len(labels)


def _build_sampling(data: TrainingData, recipe: Recipe, num_classes: int) -> Sampling:
    """Decide how batches are drawn from the real and the synthetic patches, and weight the classes in the loss.

    Synthetic patches are `Classifier.synthetic_fraction` of every batch, and at least one patch is real. Batches are
    smaller if there are fewer real patches than a batch takes.
    """
    real, synthetic, _ = data
    batch_size, seed = recipe.classify.batch_size, recipe.seed
    num_real = len(real.labels)
    num_synthetic_per_batch = 0
    if synthetic:
        num_synthetic_per_batch = min(round(batch_size * recipe.classifier.synthetic_fraction), batch_size - 1)
    num_real_per_batch = min(batch_size - num_synthetic_per_batch, num_real)
    if num_synthetic_per_batch and num_real_per_batch < batch_size - num_synthetic_per_batch:
        share = num_synthetic_per_batch / batch_size
        num_synthetic_per_batch = max(1, round(num_real_per_batch * share / (1 - share)))
    sampler = batches.epoch_sampler(np.arange(num_real), num_real_per_batch, seed)
    epoch_steps = recipe.epoch_steps or max(1, num_real // num_real_per_batch)
    patch_weights = None
    if recipe.classify.patient_balance:
        patch_weights = sample_weights(real, recipe.classify.patient_balance)
        sampler = batches.weighted_sampler(patch_weights, num_real_per_batch, seed)
    pool, fractions = real, _class_fractions(real.labels, num_classes, patch_weights)
    if synthetic and num_synthetic_per_batch:
        pool = Patches(
            ImageRows.concatenate([real.images, synthetic.images]), np.concatenate([real.labels, synthetic.labels])
        )
        synthetic_rows = np.arange(num_real, len(pool.labels))
        share = num_synthetic_per_batch / (num_synthetic_per_batch + num_real_per_batch)
        fractions = (1 - share) * fractions + share * _class_fractions(synthetic.labels, num_classes)
        sampler = batches.mixed_sampler(sampler, synthetic_rows, num_synthetic_per_batch, seed)
    return Sampling(pool, sampler, epoch_steps, class_weights(fractions))


def measure(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return {loss, accuracy, roc_auc} of probabilities, (n,) or (n, classes).

    With more than two classes, roc_auc is the mean ROC AUC of each class against the rest.
    """
    clipped, called = np.clip(probabilities, 1e-7, 1 - 1e-7), probabilities > 0.5
    if probabilities.ndim == 2:
        called = probabilities.argmax(1)
        probabilities = clipped = clipped / clipped.sum(1, keepdims=True)
    return {
        "loss": float(log_loss(labels, clipped)),
        "accuracy": float(np.mean(called == labels)),
        "roc_auc": float(roc_auc_score(labels, probabilities, multi_class="ovr")),
    }


def _set_batch_norm_momentum(network: keras.Model) -> None:
    """Set the momentum of all batch normalizations, in nested models too, to BATCH_NORM_MOMENTUM."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            _set_batch_norm_momentum(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM


def warmup_cosine_schedule(
    learning_rate: float, steps: int, warmup_steps: int
) -> keras.optimizers.schedules.CosineDecay:
    """Return a schedule that rises linearly from a tenth of the learning rate, then decays as a cosine to 1 % of it."""
    return keras.optimizers.schedules.CosineDecay(
        learning_rate / 10,
        max(1, steps - warmup_steps),
        alpha=0.01,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )


def make_optimizer(network: keras.Model, classifier_settings: Classifier, settings: Classify, epoch_steps: int):
    """Return the optimizer of the settings, built for the network, with loss scaling for mixed_float16."""
    steps = classifier_settings.epochs * epoch_steps
    warmup_steps = max(1, min(steps // 10, epoch_steps))
    schedule = warmup_cosine_schedule(classifier_settings.learning_rate, steps, warmup_steps)
    optimizer = OPTIMIZERS[settings.optimizer](schedule, weight_decay=settings.weight_decay)
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


def augment(images: tf.Tensor, step: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Return patches, float32 in [0, 1], in random orientations, stains and colors, which seed and step determine."""
    settings = recipe.classify
    seeds = [tf.stack([tf.constant(recipe.seed + 1, tf.int64), 3 * step + index]) for index in range(3)]
    images = batches.random_dihedral(images, seeds[0])
    if settings.stain_jitter:
        images = batches.stain_jitter(images, seeds[1], settings.stain_jitter)
    return batches.color_jitter(images, seeds[2], settings.color_jitter) if settings.color_jitter else images


def make_step(
    network: keras.Model,
    average: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    recipe: Recipe,
    class_weight: tuple[float, ...],
):
    """Return a function that updates the network and its average from a batch.

    Args:
        average: A copy of the network, whose weights become the exponential moving averages of the network's.
        class_weight: Of the classes in the loss.

    Returns:
        A function of the step, an integer, patches, uint8, (n, size, size, 3), and labels, integers, (n,). It returns
        the scalars loss and accuracy.
    """
    settings, fused, is_binary = recipe.classify, fast.fuse_model(network), network.output_shape[-1] == 1

    def update(step, images, labels):
        """Update the network on this replica's part of a batch, and return loss and accuracy of that part."""
        images = batches.to_float(images)
        if recipe.augment:
            images = augment(images, step, recipe)
        images, labels = distribute.replica_rows(images), distribute.replica_rows(labels)
        with tf.GradientTape() as tape:
            logits = fused(images, training=True)
            logits = logits[:, 0] if is_binary else logits
            loss = batch_loss(logits, labels, settings.loss, class_weight)
            scaled_loss = optimizer.scale_loss(loss / distribute.replicas())
        variables = network.trainable_variables
        optimizer.apply(tape.gradient(scaled_loss, variables), variables)
        is_correct = (logits > 0) == (2 * labels > 1) if is_binary else tf.argmax(logits, 1, tf.int32) == labels
        return loss, tf.reduce_mean(tf.cast(is_correct, tf.float32))

    update_everywhere = distribute.run_on_replicas(update)

    @tf.function(jit_compile=recipe.xla, autograph=False)
    def step_function(step, images, labels):
        """Update the network and the averages, and return loss and accuracy."""
        metrics, count = update_everywhere(step, images, labels), tf.cast(step, tf.float32)
        # Averages over fewer steps at the start, so that the initial weights are soon forgotten.
        decay = tf.minimum(settings.ema_decay, (1 + count) / (10 + count))
        weights.update_ema(average.variables, network.variables, decay)
        return metrics

    return step_function
