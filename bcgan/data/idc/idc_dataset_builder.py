"""TFDS builder of the Breast Histopathology Images: import this module, then `tfds.load("idc")`."""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from bcgan.data import splits
from bcgan.data.builders import patch_examples, patch_info
from bcgan.data.idc import scan


class Builder(tfds.core.GeneratorBasedBuilder):
    """Patches of invasive ductal carcinoma; splits train, validation, test by the official lists, and unlisted.

    Patches at a slide's edge keep their own size, down to one pixel.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The public archive, nested copy left out, official patient lists."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put the public archive "Breast Histopathology Images" (one zip or several, or its folder) into manual_dir.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return patch_info(self, "https://doi.org/10.1117/12.2043872", None, source=tfds.features.Text())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        """Return the examples of each role of the official lists; other patients are `unlisted`."""
        records = scan.records((Path(dl_manager.manual_dir),))
        role_of = splits.read_lists(scan.OFFICIAL_LISTS)
        roles = np.array([role_of.get(record.patient, "unlisted") for record in records])
        return {
            role: self._generate_examples([records[i] for i in np.flatnonzero(roles == role)])
            for role in ("train", "validation", "test", "unlisted")
            if (roles == role).any()
        }

    def _generate_examples(self, records):
        for (key, example), record in zip(patch_examples(records), records, strict=True):
            yield key, example | {"source": record.source}
