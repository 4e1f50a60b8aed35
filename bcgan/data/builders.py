"""Functions that the TFDS builders share: the features of a data set, and examples from records."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bcgan.classes import CLASSES
from bcgan.data.records import Record
from bcgan.slides.decode import decode_image

RGB = 2  # the color type in a PNG's header


def patch_info(
    builder: tfds.core.DatasetBuilder,
    homepage: str,
    size: int | None,
    classes: tuple[str, ...] = CLASSES,
    **more: Any,
) -> tfds.core.DatasetInfo:
    """Return the TFDS info of a data set of patches: image, label, patient, x, y (-1 if unknown), path, and `more`.

    Args:
        size: Side of the images, pixels. `None` means any size.
        classes: In the order of their labels. Defaults to benign and malignant.
        more: Further features by name.
    """
    return builder.dataset_info_from_configs(
        homepage=homepage,
        supervised_keys=("image", "label"),
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=classes),
                "patient": tfds.features.Text(),
                "x": np.int32,
                "y": np.int32,
                "path": tfds.features.Text(),
                **more,
            }
        ),
    )


def patch_examples(records: Iterable[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the (key, example) pairs of TFDS.

    An opaque 8-bit RGB PNG is stored as it is. Other images are decoded first, as TFDS decodes them differently or not
    at all.
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
    """Return the encoded file of an opaque 8-bit RGB PNG, else the decoded image, uint8 (height, width, 3)."""
    data = record.read()
    is_opaque_rgb = data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:26] == bytes((8, RGB))
    # With a chunk tRNS one color is transparent.
    is_opaque_rgb = is_opaque_rgb and b"tRNS" not in data.partition(b"IDAT")[0]
    return io.BytesIO(data) if is_opaque_rgb else decode_image(data, record.path)


def stable_seed(*parts: object) -> int:
    """Return a seed that depends on the given words and numbers, the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")
