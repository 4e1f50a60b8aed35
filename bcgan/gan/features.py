"""What the trained GAN gives to the rest: feature maps by block, synthetic patches, patches in order."""

from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from bcgan import progress
from bcgan.data import batches
from bcgan.data.records import CLASSES
from bcgan.gan import steering
from bcgan.gan.quality_filter import RESULTS
from bcgan.gan.train import sample
from bcgan.models import weights
from bcgan.models.discriminator import BLOCKS, feature_maps
from bcgan.preprocess import properties
from bcgan.preprocess.store import allocate
from bcgan.settings import Features

BATCH = 256
PICTURED = "block3"  # the block whose features are compared between real and synthetic patches


def export(
    images: np.ndarray,
    index: pd.DataFrame,
    gan: Path,
    select: Callable[[np.ndarray, np.ndarray], pd.DataFrame],
    settings: Features,
    seed: int,
    folder: Path,
) -> None:
    """Write pooled.npz, maps_<block>.npy, synthetic.npz, properties.csv, synthetic_properties.csv, steering.csv and
    walks.npz.

    pooled.npz: ids, patients, and every channel's mean of every block, float32. maps_<block>.npy: the whole maps,
    float16, (n, height, width, channels), rows as in pooled.npz. synthetic.npz: images (uint8), labels, scores,
    whether each was selected (why not, in synthetic_properties.csv), and the means of PICTURED's channels.
    properties.csv: one row per patch in the store's order, with the discriminator's score (the mean over both labels,
    so that no true label enters) and the ranks by density and by score, 1 the lowest.

    Args:
        images: uint8, (n, 50, 50, 3). Every patch of the store.
        index: the store's index, one row per patch.
        gan: Path. The folder of the gan stage.
        select: from synthetic patches and their labels to one row each with confidence, distance and filter_result.
    """
    gan_discriminator = weights.load_model(gan / "discriminator.keras")
    make = weights.load_model(gan / "generator.keras")
    pooled, scores = _features(gan_discriminator, images, settings, folder)
    ids = {"ids": index["id"].to_numpy(str), "patients": index["patient"].to_numpy(str)}
    np.savez(folder / "pooled.npz", **ids, **pooled)

    table = index[["id", "patient", "label", "role"]].join(properties.measure(images, settings.nuclear_od_threshold))
    table["score"] = scores
    table["density_rank"] = table["density"].rank(method="first").astype(int)
    table["score_rank"] = table["score"].rank(method="first").astype(int)
    table.to_csv(folder / "properties.csv", index=False, float_format="%.6g")

    labels = np.arange(settings.num_synthetic, dtype=np.int32) % 2
    synthetic = sample(make, labels, seed)
    scored = [
        (score, maps[0].mean((1, 2)))
        for score, maps in _judge(gan_discriminator, feature_maps(gan_discriminator, (PICTURED,)), synthetic)
    ]
    synthetic_scores, synthetic_pooled = map(np.concatenate, zip(*scored, strict=True))
    filtered = select(synthetic, labels)
    accepted = (filtered["filter_result"] == RESULTS[0]).to_numpy()
    kept = {
        "images": synthetic,
        "labels": labels,
        "scores": synthetic_scores,
        "accepted": accepted,
        PICTURED: synthetic_pooled,
    }
    np.savez_compressed(folder / "synthetic.npz", **kept)
    measured = properties.measure(synthetic, settings.nuclear_od_threshold).assign(label=labels, score=synthetic_scores)
    measured.join(filtered).to_csv(folder / "synthetic_properties.csv", index=False, float_format="%.6g")
    for label, name in enumerate(CLASSES):
        counts = filtered[labels == label]["filter_result"].value_counts()
        progress.log.info("features: synthetic %s: %s", name, ", ".join(f"{counts.get(v, 0)} {v}" for v in RESULTS))

    threshold = settings.nuclear_od_threshold
    ways = [steering.directions(make, label, threshold, seed) for label in range(len(CLASSES))]
    steering.obedience(make, ways, threshold, seed).to_csv(folder / "steering.csv", index=False, float_format="%.6g")
    images, target_density = steering.sweep(make, [way["density"] for way in ways], seed)
    np.savez_compressed(folder / "walks.npz", walk=steering.walk(make, seed), sweep=images, asked=target_density)


def _features(
    gan_discriminator: keras.Model, images: np.ndarray, settings: Features, folder: Path
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    extract = feature_maps(gan_discriminator)
    shapes = dict(zip(BLOCKS, (output.shape[1:] for output in extract.outputs), strict=True))
    arrays = {
        block: allocate(folder / f"maps_{block}.npy", np.float16, (len(images), *shapes[block]))
        for block in settings.saved_blocks
    }
    pooled = {block: np.empty((len(images), shapes[block][-1]), np.float32) for block in BLOCKS}
    scores, start = [], 0
    with progress.bar(len(images), "features", "patch") as bar:
        for score, maps in _judge(gan_discriminator, extract, images):
            stop = start + len(score)
            for block, values in zip(BLOCKS, maps, strict=True):
                pooled[block][start:stop] = values.mean((1, 2))
                if block in arrays:
                    arrays[block][start:stop] = values
            scores.append(score)
            bar.update(len(score))
            start = stop
    for values in arrays.values():
        values.flush()
    return pooled, np.concatenate(scores)


def _judge(discriminator: keras.Model, extract: keras.Model, images: np.ndarray) -> Iterator[tuple]:
    """(scores, maps of every block) of each batch; the score is the mean logit over both labels."""
    both = keras.Model(discriminator.inputs, [discriminator.output, *extract.outputs])

    @tf.function(reduce_retracing=True)
    def run(patches):
        patches = batches.scale(patches)
        zeros = tf.zeros(tf.shape(patches)[:1], tf.int32)
        benign, *maps = both([patches, zeros], training=False)
        malignant = discriminator([patches, zeros + 1], training=False)
        return (benign + malignant)[:, 0] / 2, [tf.cast(values, tf.float32) for values in maps]

    for start in range(0, len(images), BATCH):
        score, maps = run(tf.constant(images[start : start + BATCH]))
        yield score.numpy(), [values.numpy() for values in maps]
