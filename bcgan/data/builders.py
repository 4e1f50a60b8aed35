"""What the TFDS builders share: the features of a patch and the examples made of records."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bcgan.data.records import CLASSES, Record
from bcgan.slides.decode import decode_image

RGB = 2  # the colour type in a PNG's header


def patch_info(
    builder: tfds.core.DatasetBuilder, homepage: str, size: int | None, **more: Any
) -> tfds.core.DatasetInfo:
    """Image (uint8, size x size x 3, any size where None), label, patient, x, y (-1: unknown), path, and `more`."""
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
    """Iterate over TFDS's (key, example) pairs.

    An opaque 8-bit RGB PNG goes in as it is; any other image, which TFDS would not decode or not alike, as its pixels.
    """
    for record in records:
        yield (
            record.key,
            {
                "image": _image(record),
                "label": record.label,
                "patient": record.patient,
                "x": record.x,
                "y": record.y,
                "path": record.path,
            },
        )


def _image(record: Record) -> io.BytesIO | np.ndarray:
    data = record.read()
    is_plain = data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:26] == bytes((8, RGB))
    is_plain = is_plain and b"tRNS" not in data.partition(b"IDAT")[0]  # one colour may be transparent without alpha
    return io.BytesIO(data) if is_plain else decode_image(data, record.path)


def seed_of(*parts: object) -> int:
    """A seed from words and numbers that is the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")
