"""TFDS builder of BreaKHis: import this module, then `tfds.load("breakhis/40x")`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bcgan.data.breakhis import scan
from bcgan.data.builders import patch_examples, patch_info
from bcgan.data.records import Record


@dataclasses.dataclass
class BreakhisConfig(tfds.core.BuilderConfig):
    """The magnification of the images; `None` means all."""

    magnification: int | None = None


class Builder(tfds.core.GeneratorBasedBuilder):
    """Images of 700x460 pixels with patient, magnification and tumor type from their names; one split, `train`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The public archive's folders and names."}
    BUILDER_CONFIGS = [BreakhisConfig(name="all")] + [
        BreakhisConfig(name=f"{scale}x", magnification=scale) for scale in (40, 100, 200, 400)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put the folder BreaKHis_v1, unpacked from the authors' archive, or a zip of it, into manual_dir.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        """Return the features of the data set."""
        return patch_info(
            self,
            "https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/",
            None,
            magnification=np.int32,
            tumour=tfds.features.ClassLabel(names=sorted(scan.TUMOR_TYPES.values())),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        records = scan.records((Path(dl_manager.manual_dir),), self.builder_config.magnification)
        return {"train": self._generate_examples(records)}

    def _generate_examples(self, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the (key, example) pairs of TFDS, with magnification and tumor type, which only the keys state."""
        for key, example in patch_examples(records):
            fields = scan.parse_name(key)
            yield (
                key,
                example | {"magnification": int(fields["magnification"]), "tumour": scan.TUMOR_TYPES[fields["tumour"]]},
            )
