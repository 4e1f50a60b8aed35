"""TFDS builder of any folder laid out <patient>/<class>/<image>: put it, or a zip of it, into manual_dir."""

from pathlib import Path

import tensorflow_datasets as tfds

from bcgan.data.builders import patch_examples, patch_info
from bcgan.data.patient_folder import scan


class Builder(tfds.core.GeneratorBasedBuilder):
    """Images of any size; one split, `train`: split by patient before use."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "<patient>/<class>/<image>."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put a folder or zip laid out <patient>/<class>/<image> into manual_dir."

    def _info(self) -> tfds.core.DatasetInfo:
        return patch_info(self, "https://www.tensorflow.org/datasets", None)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"train": self._generate_examples(scan.records((Path(dl_manager.manual_dir),)))}

    def _generate_examples(self, records):
        yield from patch_examples(records)
