"""Records of data sets that tensorflow-datasets generates or downloads: the phantom and PatchCamelyon."""

from collections.abc import Iterator
from pathlib import Path

from bcgan.classes import ClassPairs, class_names
from bcgan.data.labels import label_known_classes
from bcgan.data.records import UNKNOWN, Record

CAMELYON_MPP = 0.972  # microns per pixel (Veeling et al. 2018): 10x, downsampled from 0.243


def phantom_records(paths: tuple[Path, ...], size: int, mpp: float, classes: ClassPairs = ()) -> list[Record]:
    """Return the records of the histology phantom, which is generated on the first call.

    Args:
        paths: The folder of the generated data, if any; else that of TFDS.
        size: Side of a patch, pixels.
        mpp: Microns per pixel at which the tissue is drawn.
        classes: Classes of benign, malignant and in_situ; tissue of none of them is left out. Defaults to benign and
            malignant, and there is no tissue in situ then.

    Raises:
        InputError: If a class is none of these.
    """
    from bcgan.data.histology_phantom.histology_phantom_dataset_builder import KINDS, Builder, config_for

    label_of = label_known_classes(classes, KINDS, "histology_phantom")
    config = config_for(size, mpp, in_situ="in_situ" in label_of)
    builder = Builder(config=config, data_dir=paths[0] if paths else None, file_format="array_record")
    records = []
    for split, index, example, read in _read_examples(builder):
        label = label_of.get(KINDS[example["label"]])
        if label is None:
            continue
        patient, x, y = example["patient"].decode(), int(example["x"]), int(example["y"])
        key = f"{patient}_x{x}_y{y}_class{label}"
        path = f"histology_phantom/{split}/{index}"
        records.append(Record(key, path, builder.name, patient, label, x, y, "", read, mpp))
    return records


def phantom_labels(classes: ClassPairs) -> list[int]:
    """Return for each class of an experiment the label that the phantom draws its tissue with, an index into KINDS.

    A class of several kinds of tissue is drawn as the first of them.
    """
    from bcgan.data.histology_phantom.histology_phantom_dataset_builder import KINDS

    label_of = label_known_classes(classes, KINDS, "histology_phantom")
    return [
        min(KINDS.index(kind) for kind in label_of if label_of[kind] == label)
        for label in range(len(class_names(classes)))
    ]


def patch_camelyon_records(paths: tuple[Path, ...]) -> list[Record]:
    """Return the records of PatchCamelyon, which TFDS downloads.

    It names no patients, so each patch counts as a patient, and confidence intervals are over patches. Its official
    split, which the records keep, is by slide.

    Args:
        paths: The folder of TFDS's data, or empty for the default one.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder("patch_camelyon", data_dir=paths[0] if paths else None, file_format="array_record")
    records = []
    for split, index, example, read in _read_examples(builder):
        key = example["id"].decode() or f"{split}_{index}"
        path = f"patch_camelyon/{split}/{index}"
        label = int(example["label"])
        records.append(Record(key, path, builder.name, key, label, UNKNOWN, UNKNOWN, split, read, CAMELYON_MPP))
    return records


def _read_examples(builder) -> Iterator[tuple]:
    """Yield split, index, example, and a function that returns the encoded image, of every example of a data set."""
    import tensorflow_datasets as tfds

    builder.download_and_prepare()
    for split in sorted(builder.info.splits):
        source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        for index in range(len(source)):
            yield split, index, source[index], lambda source=source, index=index: source[index]["image"]
