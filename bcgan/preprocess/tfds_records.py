"""Write the patches of a run as a data set that `tensorflow-datasets` opens, without bcgan and without a builder.

    tfds.builder_from_directory("runs/<experiment>/preprocess/tfds").as_dataset(split="train")

Training itself reads patches.npy, which is faster (docs/explanation/speed.md).
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from bcgan import progress
from bcgan.data.rows import ImageRows

FOLDER = "tfds"
SHARD_PATCHES = 10_000


def write(folder: Path, images: ImageRows, index: pd.DataFrame, class_names: tuple[str, ...]) -> None:
    """Write the folder `tfds`: a split for each role, with image (PNG), label, id, image_id, patient, x, y and path.

    Args:
        folder: Of the stage `preprocess`.
        images: uint8, (n, size, size, 3).
        index: The store's, one row for each image.
        class_names: In the order of their labels.
    """
    import tensorflow_datasets as tfds

    target = folder / FOLDER
    shutil.rmtree(target, ignore_errors=True)  # of an interrupted stage
    target.mkdir()
    features = tfds.features.FeaturesDict({
        "image": tfds.features.Image(shape=images.shape[1:], encoding_format="png"),
        "label": tfds.features.ClassLabel(names=class_names),
        "id": tfds.features.Text(), "image_id": tfds.features.Text(), "patient": tfds.features.Text(),
        "x": np.int32, "y": np.int32, "path": tfds.features.Text(),
    })  # fmt: skip
    splits = []
    with progress.bar(len(index), "tfds", "patch") as bar:
        for role, rows in index.groupby("role").indices.items():
            names = tfds.core.ShardedFileTemplate(
                dataset_name="patches", data_dir=target, split=role, filetype_suffix="tfrecord"
            )
            shards = np.array_split(rows, -(-len(rows) // SHARD_PATCHES))
            num_bytes = 0
            for number, shard in enumerate(shards):
                path = Path(names.sharded_filepath(shard_index=number, num_shards=len(shards)))
                _write_shard(path, features, images, index, shard, bar)
                num_bytes += path.stat().st_size
            splits.append(
                tfds.core.SplitInfo(
                    name=role,
                    shard_lengths=[len(shard) for shard in shards],
                    num_bytes=num_bytes,
                    filename_template=names,
                )  # fmt: skip
            )
        tfds.folder_dataset.write_metadata(
            data_dir=target, features=features, split_infos=splits, filename_template=None, check_data=False
        )


def _write_shard(path: Path, features, images: ImageRows, index: pd.DataFrame, rows: np.ndarray, bar) -> None:
    """Write some patches to one file."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

    def serialize(row: int) -> bytes:
        entry = index.iloc[row]
        example = {name: entry[name] for name in ("label", "id", "patient", "x", "y", "path")}
        example |= {"image": images[row], "image_id": entry["image"]}
        return serializer.serialize_example(features.encode_example(example))

    with tf.io.TFRecordWriter(str(path)) as writer, ThreadPoolExecutor(os.cpu_count()) as pool:
        for record in pool.map(serialize, map(int, rows)):
            writer.write(record)
            bar.update()
