"""Records of data sets that tensorflow-datasets makes or downloads: the phantom and PatchCamelyon."""

from collections.abc import Iterator
from pathlib import Path

from bcgan.data.records import UNKNOWN, Record

PHANTOM_MPP = 4.0  # microns per pixel: drawn as IDC's patches are
CAMELYON_MPP = 0.972  # of Veeling et al. (2018): 10x, undersampled from 0.243


def phantom_records(places: tuple[Path, ...]) -> list[Record]:
    """The embedded default; made on the first call, below `places[0]` or TFDS's own folder."""
    from bcgan.data.histology_phantom.histology_phantom_dataset_builder import Builder

    builder = Builder(data_dir=places[0] if places else None, file_format="array_record")
    records = []
    for split, number, example, read in _examples(builder):
        patient = example["patient"].decode()
        key = f"{patient}_x{example['x']}_y{example['y']}_class{example['label']}"
        path = f"histology_phantom/{split}/{number}"
        place = (int(example["x"]), int(example["y"]))
        records.append(Record(key, path, builder.name, patient, int(example["label"]), *place, "", read, PHANTOM_MPP))
    return records


def patch_camelyon_records(places: tuple[Path, ...]) -> list[Record]:
    """PatchCamelyon, as TFDS downloads it. It names no patient, so every patch stands for itself: intervals are
    by patch, and only its authors' own split, which is by slide, keeps slides apart."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("patch_camelyon", data_dir=places[0] if places else None, file_format="array_record")
    records = []
    for split, number, example, read in _examples(builder):
        key = example["id"].decode() or f"{split}_{number}"
        path = f"patch_camelyon/{split}/{number}"
        label = int(example["label"])
        records.append(Record(key, path, builder.name, key, label, UNKNOWN, UNKNOWN, split, read, CAMELYON_MPP))
    return records


def _examples(builder) -> Iterator[tuple]:
    """(split, number, example, reader of its encoded image) of everything the builder holds."""
    import tensorflow_datasets as tfds

    builder.download_and_prepare()
    for split in sorted(builder.info.splits):
        source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        for number in range(len(source)):
            yield split, number, source[number], lambda source=source, number=number: source[number]["image"]
