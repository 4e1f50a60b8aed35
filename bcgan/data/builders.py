"""What the TFDS builders share: the features of a patch and the examples made of records."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from bcgan.data.records import CLASSES, Record


def patch_info(
    builder: tfds.core.DatasetBuilder, homepage: str, size: int | None, **more: Any
) -> tfds.core.DatasetInfo:
    """Image (uint8, size x size x 3, any size where None), label, patient, x, y (-1: unknown), path, and `more`."""
    import numpy as np

    return builder.dataset_info_from_configs(
        homepage=homepage,
        supervised_keys=("image", "label"),
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=CLASSES),
                "patient": tfds.features.Text(),
                "x": np.int32,
                "y": np.int32,
                "path": tfds.features.Text(),
                **more,
            }
        ),
    )


def patch_examples(records: Iterable[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """TFDS's (key, example) pairs; the encoded image goes in as it is."""
    for record in records:
        yield (
            record.key,
            {
                "image": io.BytesIO(record.read()),
                "label": record.label,
                "patient": record.patient,
                "x": record.x,
                "y": record.y,
                "path": record.path,
            },
        )


def seed_of(*parts: object) -> int:
    """A seed from words and numbers that is the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")
