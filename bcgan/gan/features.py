"""The stage `features`: write the discriminator's feature maps, synthetic patches, and rankings of real patches."""

from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from bcgan import progress
from bcgan.classes import CLASSES
from bcgan.data import batches
from bcgan.errors import InputError
from bcgan.gan import steering
from bcgan.gan.quality_filter import RESULTS
from bcgan.gan.train import sample
from bcgan.models import weights
from bcgan.models.discriminator import feature_maps, list_blocks, select_blocks
from bcgan.models.generator import num_labels
from bcgan.preprocess import properties
from bcgan.preprocess.store import allocate, release
from bcgan.settings import Features

COMPARED_BLOCK = "block3"  # whose features are compared between real and synthetic patches


def export(
    images: np.ndarray,
    index: pd.DataFrame,
    gan: Path,
    filter_fn: Callable[[np.ndarray, np.ndarray], pd.DataFrame],
    settings: Features,
    seed: int,
    folder: Path,
    class_names: tuple[str, ...] = CLASSES,
) -> None:
    """Write the discriminator's features of all patches, and synthetic patches, as input of later stages.

    pooled.npz: ids, patients, and for each block of the discriminator the mean of every channel, float32.
    maps_<block>.npy: the block's feature maps, float16, (n, height, width, channels), rows as in pooled.npz.
    properties.csv: one row for each patch of the store, with its image properties, the discriminator's score (the mean
    over all labels, so that the true label is not used) and its ranks by nuclear density and by score, 1 the lowest.
    synthetic.npz and synthetic_properties.csv: synthetic patches and whether the quality filter accepts them.
    steering.csv and walks.npz: how well the noise controls image properties, with latent sweeps and interpolations.

    Args:
        images: uint8, (n, size, size, 3), of the discriminator's size. Every patch of the store.
        index: One row for each of `images`: id, patient, label and role.
        gan: The folder of the stage `gan`, with the trained networks.
        filter_fn: Quality filter: maps uint8 patches and their labels to one row each with confidence, distance and
            filter_result.
        seed: Of the synthetic patches.
        folder: Folder to write.
        class_names: Defaults to benign and malignant.
    """
    gan_discriminator = weights.load_model(gan / "discriminator.keras")
    gan_generator = weights.load_model(gan / "generator.keras")
    pooled, scores = _write_maps(gan_discriminator, images, settings, folder)
    ids = {"ids": index["id"].to_numpy(str), "patients": index["patient"].to_numpy(str)}
    np.savez(folder / "pooled.npz", **ids, **pooled)

    table = index[["id", "patient", "label", "role"]].join(
        properties.patch_features(images, settings.nuclear_od_threshold)
    )
    table["score"] = scores
    table["density_rank"] = table["density"].rank(method="first").astype(int)
    table["score_rank"] = table["score"].rank(method="first").astype(int)
    table.to_csv(folder / "properties.csv", index=False, float_format="%.6g")

    labels = np.arange(settings.num_synthetic, dtype=np.int32) % len(class_names)
    synthetic = sample(gan_generator, labels, seed)
    filtered = filter_fn(synthetic, labels)
    _write_synthetic(gan_discriminator, synthetic, labels, filtered, settings, folder)
    for label, name in enumerate(class_names):
        counts = filtered[labels == label]["filter_result"].value_counts()
        results = ", ".join(f"{counts.get(result, 0)} {result}" for result in RESULTS)
        progress.log.info("features: synthetic %s: %s", name, results)
    _write_steering(gan_generator, settings.nuclear_od_threshold, seed, folder, class_names)


def load_pooled(folder: Path) -> dict[str, np.ndarray]:
    """Load the mean of every channel, float32 (n, channels) by block, of all patches from the folder of `features`."""
    with np.load(folder / "pooled.npz") as saved:
        return {block: saved[block] for block in select_blocks(saved.files)}


def _write_synthetic(
    gan_discriminator: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    filtered: pd.DataFrame,
    settings: Features,
    folder: Path,
) -> None:
    """Write synthetic.npz and synthetic_properties.csv.

    synthetic.npz: images (uint8), labels, scores of the discriminator, accepted, and the mean of every channel of
    COMPARED_BLOCK. synthetic_properties.csv: features, and why patches were not accepted.

    Args:
        filtered: The results of the quality filter, one row for each image.
    """
    scores, pooled = [], []
    for batch_scores, (maps,) in _score_batches(
        gan_discriminator, feature_maps(gan_discriminator, (COMPARED_BLOCK,)), images
    ):
        scores.append(batch_scores)
        pooled.append(maps.mean((1, 2)))
    arrays = {
        "images": images,
        "labels": labels,
        "scores": np.concatenate(scores),
        "accepted": (filtered["filter_result"] == RESULTS[0]).to_numpy(),
        COMPARED_BLOCK: np.concatenate(pooled),
    }
    np.savez_compressed(folder / "synthetic.npz", **arrays)
    table = properties.patch_features(images, settings.nuclear_od_threshold)
    table = table.assign(label=labels, score=arrays["scores"]).join(filtered)
    table.to_csv(folder / "synthetic_properties.csv", index=False, float_format="%.6g")


def _write_steering(
    gan_generator: keras.Model, nuclear_od_threshold: float, seed: int, folder: Path, class_names: tuple[str, ...]
) -> None:
    """Write how well image properties of synthetic patches, such as nuclear density, can be controlled by the noise.

    steering.csv: target and measured value of each property and patch.
    walks.npz: `walk`, uint8 patches of interpolations between noise vectors; `sweep`, uint8 patches whose noise moves
    along the direction of nuclear density; `targets`, the densities that the sweep aims at.

    Args:
        nuclear_od_threshold: Hematoxylin optical density above which a pixel counts as nucleus.
    """
    directions = [
        steering.fit_latent_directions(gan_generator, label, nuclear_od_threshold, seed)
        for label in range(len(class_names))
    ]
    control = steering.measure_control(gan_generator, directions, nuclear_od_threshold, seed, class_names)
    control.to_csv(folder / "steering.csv", index=False, float_format="%.6g")
    sweep, targets = steering.attribute_sweep(gan_generator, [by_name["density"] for by_name in directions], seed)
    walk = steering.latent_walk(gan_generator, seed)
    np.savez_compressed(folder / "walks.npz", walk=walk, sweep=sweep, asked=targets)


def _write_maps(
    gan_discriminator: keras.Model, images: np.ndarray, settings: Features, folder: Path
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Write the feature maps of `saved_blocks`, and return pooled features by block and the discriminator's scores.

    Pooled features are the mean of every channel, float32 (n, channels). Scores are float32, (n,).
    """
    blocks = list_blocks(gan_discriminator)
    saved_blocks = [blocks[-1] if block == "last" else block for block in settings.saved_blocks]
    if missing := set(saved_blocks) - set(blocks):
        raise InputError(
            f"features.saved_blocks: {min(missing)} is not a block of this discriminator; its blocks at "
            f"{images.shape[1]} pixels are {', '.join(blocks)}. Name some of them."
        )
    extract = feature_maps(gan_discriminator)
    shapes = dict(zip(blocks, (output.shape[1:] for output in extract.outputs), strict=True))
    arrays = {
        block: allocate(folder / f"maps_{block}.npy", np.float16, (len(images), *shapes[block]))
        for block in saved_blocks
    }
    pooled = {block: np.empty((len(images), shapes[block][-1]), np.float32) for block in blocks}
    scores, start = [], 0
    with progress.bar(len(images), "features", "patch") as bar:
        for score, maps in _score_batches(gan_discriminator, extract, images):
            stop = start + len(score)
            for block, values in zip(blocks, maps, strict=True):
                pooled[block][start:stop] = values.mean((1, 2))
                if block in arrays:
                    arrays[block][start:stop] = values
                    release(arrays[block])
            scores.append(score)
            bar.update(len(score))
            start = stop
    for values in arrays.values():
        values.flush()
    return pooled, np.concatenate(scores)


def _score_batches(discriminator: keras.Model, extract: keras.Model, images: np.ndarray) -> Iterator[tuple]:
    """Yield for each batch the discriminator's scores, (batch,), and a list of the maps of `extract`, float32.

    The score is the mean of the logits for all labels. The maps do not depend on the label.

    Args:
        extract: A `feature_maps` of this discriminator, whose layers it shares. Maps are (batch, height, width,
            channels).
        images: uint8, (n, size, size, 3).
    """
    combined = keras.Model(discriminator.inputs, [discriminator.output, *extract.outputs])
    num_classes = num_labels(discriminator)

    @tf.function(reduce_retracing=True, autograph=False)
    def score_and_map(patches: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return the scores, (batch,), and the maps of uint8 patches.

        `combined` computes the maps with the logit of label 0; the loop adds the logits of the other labels.
        """
        patches = batches.to_float(patches)
        zeros = tf.zeros(tf.shape(patches)[:1], tf.int32)
        total, *maps = combined([patches, zeros], training=False)
        for label in range(1, num_classes):
            total += discriminator([patches, zeros + label], training=False)
        return total[:, 0] / num_classes, [tf.cast(values, tf.float32) for values in maps]

    batch = batches.inference_batch(images.shape[1])
    for start in range(0, len(images), batch):
        score, maps = score_and_map(tf.constant(images[start : start + batch]))
        yield score.numpy(), [values.numpy() for values in maps]
