"""Fit the last layer of a classifier by logistic regression, on the features of the layers before it.

That is how a classifier whose other layers are frozen is trained, in minutes. A network that is tuned afterwards starts
from it too: with a head that was not trained, the first steps would spoil the pretrained features (Kumar et al. 2022).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy.special import expit, softmax

from bcgan import progress
from bcgan.classify.train import Patches, Recipe, TrainingData, augment, check_finite, measure, sample_weights, train
from bcgan.data import batches
from bcgan.data.views import center_crop
from bcgan.models import fast, weights
from bcgan.models.gan_resnet import num_random_units

HEAD = "logit"  # name of the last layer
INVERSE_PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)  # scikit-learn's C; the validation patients select one
DEFAULT_INVERSE_PENALTY = 3e-3  # without validation patients
MAX_ITERATIONS = 300


def fit(network: keras.Model, data: TrainingData, recipe: Recipe, path: Path) -> None:
    """Train a classifier and write `path` (.keras), and next to it a line for each epoch (.jsonl).

    If all layers but the last are frozen, that one is fitted by logistic regression. With `multi_depth` it is too, and
    then all layers are trained. After an interruption the same call resumes; a regression starts again.

    Args:
        network: As `bcgan.models.classifier` builds it.

    Raises:
        WorkError: If the loss or a feature is NaN or infinite.
    """
    if is_frozen(network):
        train_head(network, data, recipe, path)
        return
    if recipe.classifier.multi_depth and not path.with_suffix(".checkpoint.npz").exists():
        _fit_initial_head(network, data, recipe, path.stem)
    train(network, data, recipe, path)


def _fit_initial_head(network: keras.Model, data: TrainingData, recipe: Recipe, name: str) -> None:
    """Fit the last layer once, with which the training of all layers starts; the features are freed afterwards.

    Units that start from random weights get the weight zero: the batch normalization statistics of the first batches
    change their values.
    """
    head = _Head(network, data, recipe, name)
    head.add_pass(0)
    head.assign(head.fit(num_random_units(network)).parameters)


def selected_penalty(log: Path) -> float | None:
    """Return the inverse penalty of the epoch that was kept, from the log of a training; `None` if it has none."""
    rows = list(progress.read_jsonl(log)) if log.exists() else []
    best = max(rows, key=lambda row: row.get("validation_roc_auc", row["epoch"]), default={})
    return best.get("inverse_penalty")


def is_frozen(network: keras.Model) -> bool:
    """Return whether the last layer is the only one that training changes."""
    return not any(map(_is_trained, (layer for layer in network.layers if layer.name != HEAD)))


def _is_trained(layer: keras.layers.Layer) -> bool:
    """Return whether training changes weights or statistics of a layer, or of a layer inside it."""
    if isinstance(layer, keras.Model):
        return layer.trainable and any(map(_is_trained, layer.layers))
    return layer.trainable and bool(layer.weights)


def train_head(network: keras.Model, data: TrainingData, recipe: Recipe, path: Path) -> None:
    """Train a classifier whose other layers are frozen: fit its last layer by logistic regression.

    Each epoch augments the training patches anew, adds their features to those of the epochs before, and fits the layer
    to all of them. The fit with the largest ROC AUC on the validation patches is kept; without validation patches, the
    last one.

    Args:
        path: The .keras file to write. Its log, with the suffix .jsonl, gets a line for each epoch.
    """
    log_path, head = path.with_suffix(".jsonl"), _Head(network, data, recipe, path.stem)
    log_path.unlink(missing_ok=True)
    best_parameters, best_auc = None, -1.0
    for epoch in range(recipe.classifier.epochs):
        start_time = time.monotonic()
        head.add_pass(epoch)
        fitted = head.fit()
        metrics = {f"validation_{name}": value for name, value in fitted.validation_metrics.items()}
        roc_auc = metrics.get("validation_roc_auc", epoch)  # without validation the last pass is best
        if best_parameters is None or roc_auc > best_auc:
            best_parameters, best_auc = fitted.parameters, roc_auc
        seconds = round(time.monotonic() - start_time, 2)
        training = {name: fitted.training_metrics[name] for name in ("loss", "accuracy")}
        progress.append_jsonl(
            log_path, epoch=epoch, **training, **metrics, inverse_penalty=fitted.inverse_penalty, seconds=seconds
        )
    head.assign(best_parameters)
    weights.save_model(network, path)


class _Fitted(NamedTuple):
    """A logistic regression."""

    parameters: tuple[np.ndarray, np.ndarray]  # kernel, (features, outputs), and bias, (outputs,)
    inverse_penalty: float
    training_metrics: dict[str, float]
    validation_metrics: dict[str, float]  # empty without validation patches


class _Head:
    """The last layer of a network, and the features that it is fitted to."""

    def __init__(self, network: keras.Model, data: TrainingData, recipe: Recipe, name: str):
        """Compute the features of the validation patches; `name` is the training's, for messages."""
        self._layer, self._recipe, self._name = network.get_layer(HEAD), recipe, name
        self._real = data.real
        self._features = _make_feature_function(network, recipe)
        num_features = network.get_layer(HEAD).input.shape[-1]
        num_rows = recipe.classifier.epochs * len(data.real.labels) if is_frozen(network) else len(data.real.labels)
        self._values = np.zeros((num_rows, num_features), np.float32)  # of all passes
        self._num_filled = 0
        self._validation: Patches | None = None
        if data.validation:
            images = center_crop(data.validation.images, recipe.classify.crop_size)
            features = batches.map_in_batches(lambda part: self._features(part, None), images)
            check_finite(features, name, 0, recipe)
            self._validation = Patches(features, data.validation.labels)

    def add_pass(self, epoch: int) -> None:
        """Compute the features of every training patch, augmented anew for the pass number `epoch`, and append them."""
        settings, seed, count = self._recipe.classify, self._recipe.seed, len(self._real.labels)
        batch = batches.inference_batch(settings.crop_size or self._real.images.shape[1])
        steps = -(-count // batch)  # rounded up
        # Steps are counted over all passes: crops and augmentation are drawn from the number of the step.
        first_step = epoch * steps

        def rows_of_step(step: int) -> np.ndarray:
            start = (step - first_step) * batch
            return np.arange(start, min(start + batch, count))

        step_range = range(first_step, first_step + steps)
        dataset = batches.make_dataset(
            self._real.images, self._real.labels, rows_of_step, step_range, settings.crop_size, seed
        )
        with progress.bar(count, f"{self._name}: features", "patch") as bar:
            for step, images, _ in dataset:
                end = self._num_filled + len(images)
                self._values[self._num_filled : end] = self._features(images, step)
                self._num_filled = end
                bar.update(len(images))
        check_finite(self._values[self._num_filled - count : self._num_filled], self._name, epoch, self._recipe)

    def fit(self, first: int = 0) -> _Fitted:
        """Return the logistic regression of the largest ROC AUC on the validation patches.

        Args:
            first: The first feature that is used; the weights of those before it are zero. Defaults to 0.
        """
        from sklearn.linear_model import LogisticRegression

        settings, features = self._recipe.classify, self._values[: self._num_filled, first:]
        num_passes = len(features) // len(self._real.labels)
        labels = np.tile(self._real.labels, num_passes)
        patch_weights = sample_weights(self._real, settings.patient_balance)
        mean, deviation = features.mean(0), features.std(0) + 1e-6  # a constant feature has no deviation
        features = features - mean
        features /= deviation
        candidates = []
        for inverse_penalty in self._inverse_penalties():
            model = LogisticRegression(
                C=inverse_penalty, max_iter=MAX_ITERATIONS,
                class_weight="balanced" if settings.loss == "weighted_bce" else None,
            )  # fmt: skip
            # Divided by the number of passes, so that the penalty does not depend on it.
            model.fit(features, labels, np.tile(patch_weights, num_passes) / num_passes)
            # The layer reads features that are not standardized, so that its weights include the standardization.
            kernel = (model.coef_ / deviation).T
            bias = model.intercept_ - mean @ kernel
            parameters = np.pad(kernel, ((first, 0), (0, 0))), bias
            probabilities = _to_probabilities(model.decision_function(features))
            validation_metrics = {}
            if self._validation:
                logits = self._validation.images[:, first:] @ kernel + bias
                validation_metrics = measure(_to_probabilities(logits), self._validation.labels)
            candidates.append(_Fitted(parameters, inverse_penalty, measure(probabilities, labels), validation_metrics))
        return max(candidates, key=lambda fitted: fitted.validation_metrics.get("roc_auc", 0.0))

    def _inverse_penalties(self) -> tuple[float, ...]:
        """Return the inverse penalties of which `fit` selects one: that of the recipe, if it names one."""
        if self._recipe.inverse_penalty:
            return (self._recipe.inverse_penalty,)
        return INVERSE_PENALTIES if self._validation else (DEFAULT_INVERSE_PENALTY,)

    def assign(self, parameters: tuple[np.ndarray, np.ndarray]) -> None:
        """Set the weights of the layer."""
        self._layer.set_weights(list(parameters))


def _make_feature_function(
    network: keras.Model, recipe: Recipe
) -> Callable[[np.ndarray, tf.Tensor | None], np.ndarray]:
    """Return a function from patches to the input of the last layer.

    Returns:
        A function of patches, uint8, (n, size, size, 3), and the step that their augmentation is drawn for, `None` for
        none. It returns float32, (n, features).
    """
    features = fast.fuse_model(keras.Model(network.input, network.get_layer(HEAD).input))

    @tf.function(reduce_retracing=True, autograph=False)
    def run(images, step):
        images = batches.to_float(images)
        if step is not None and recipe.augment:
            images = augment(images, step, recipe)
        return tf.cast(features(images, training=False), tf.float32)

    return lambda images, step: run(tf.convert_to_tensor(images), step).numpy()


def _to_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits, (n,) or (n, 1), of the second of two classes, or (n, classes), of each."""
    logits = logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits
    return softmax(logits, 1) if logits.ndim == 2 else expit(logits)
