"""Write patches as a data set that `tensorflow-datasets` opens, without bcgan and without a builder.

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
Columns = dict[str, str]  # the column of a table, by the name that it gets in the data set
SHARD_PATCHES = 10_000


def write(
    target: Path, images: ImageRows | np.ndarray, table: pd.DataFrame, class_names: tuple[str, ...], columns: Columns
) -> None:
    """Write a folder with a split for each role. Every patch has an image (PNG), its label, and `columns`.

    Args:
        target: The folder; what an interrupted call left there is deleted.
        images: uint8, (n, size, size, 3).
        table: One row for each image, with `role`, `label` and the columns.
        class_names: In the order of their labels.
        columns: {name in the data set: column of `table`}. They are written as text or as int32.
    """
    import tensorflow_datasets as tfds

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    features = tfds.features.FeaturesDict({
        "image": tfds.features.Image(shape=images.shape[1:], encoding_format="png"),
        "label": tfds.features.ClassLabel(names=class_names),
        **{
            name: np.int32 if pd.api.types.is_integer_dtype(table[column]) else tfds.features.Text()
            for name, column in columns.items()
        },
    })  # fmt: skip
    splits = []
    with progress.bar(len(table), "tfds", "patch") as bar:
        for role, rows in table.groupby("role").indices.items():
            file_names = tfds.core.ShardedFileTemplate(
                dataset_name="patches", data_dir=target, split=role, filetype_suffix="tfrecord"
            )
            shards = np.array_split(rows, -(-len(rows) // SHARD_PATCHES))
            num_bytes = 0
            for number, shard in enumerate(shards):
                path = Path(file_names.sharded_filepath(shard_index=number, num_shards=len(shards)))
                _write_shard(path, features, (images, table, columns), shard, bar)
                num_bytes += path.stat().st_size
            splits.append(
                tfds.core.SplitInfo(
                    name=role,
                    shard_lengths=[len(shard) for shard in shards],
                    num_bytes=num_bytes,
                    filename_template=file_names,
                )  # fmt: skip
            )
        tfds.folder_dataset.write_metadata(
            data_dir=target, features=features, split_infos=splits, filename_template=None, check_data=False
        )


def _write_shard(path: Path, features, patches: tuple, rows: np.ndarray, bar) -> None:
    """Write the patches `rows` of (images, table, columns), as `write` takes these, to one TFRecord file."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    images, table, columns = patches
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

    def serialize(row: int) -> bytes:
        entry = table.iloc[row]
        example = {"image": images[row], "label": entry["label"]}
        example |= {name: entry[column] for name, column in columns.items()}
        record = serializer.get_tf_example(features.encode_example(example))
        return record.SerializeToString(deterministic=True)  # otherwise the order of the fields changes by process

    with tf.io.TFRecordWriter(str(path)) as writer, ThreadPoolExecutor(os.cpu_count()) as pool:
        for record in pool.map(serialize, map(int, rows)):
            writer.write(record)
            bar.update()
