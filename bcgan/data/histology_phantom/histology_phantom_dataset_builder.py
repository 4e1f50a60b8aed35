"""TFDS builder of the histology phantom: procedural H&E tissue, made on the spot from a seed, nothing downloaded."""

import copy
import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from bcgan.data.builders import patch_info, stable_seed
from bcgan.data.histology_phantom.canvas import BASE_MPP, VERSION, PatientStyle, patient_style
from bcgan.data.histology_phantom.tissue import Patch, render_patch

PATCHES_PER_ROW = 10
KINDS = ("benign", "malignant", "in_situ")  # classes, in the order of the labels here; the last is optional


@dataclasses.dataclass
class PhantomConfig(tfds.core.BuilderConfig):
    """How much tissue is drawn, and how it is seen; patients have different shares of malignant patches."""

    patients: int = 48
    patches: int = 60  # of each patient
    seed: int = 0
    size: int = 50  # side of a patch, pixels
    mpp: float = BASE_MPP  # microns per pixel
    in_situ: bool = False  # whether there is a third class, carcinoma in situ


def config_for(size: int, mpp: float, in_situ: bool = False) -> PhantomConfig | None:
    """Return the configuration of a size and scale; `None`, the default one, for two classes at 50 px and 4 um a pixel.

    Args:
        size: Side of a patch, pixels.
        mpp: Microns per pixel.
        in_situ: Whether there is a third class. Defaults to False.
    """
    if (size, mpp, in_situ) == (PhantomConfig.size, PhantomConfig.mpp, PhantomConfig.in_situ):
        return None
    name = f"{size}px_{mpp:g}um" + "_in_situ" * in_situ
    return PhantomConfig(name=name, size=size, mpp=mpp, in_situ=in_situ)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Patches with the truth beside each: nuclei (x, y, radius in pixels, malignant 0 or 1), the share of
    the patch that nuclei cover, the share that is tissue, and the kind of tissue."""

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES = {
        "1.0.0": "First release.",
        "1.1.0": "A patch has the same class at every scale, and the same tissue if it shows as many microns.",
    }
    BUILDER_CONFIGS = [
        PhantomConfig(name="default"),
        PhantomConfig(name="tiny", patients=10, patches=12),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        """Return the features of the data set."""
        return patch_info(
            self,
            "https://www.tensorflow.org/datasets",
            self.builder_config.size,
            KINDS if self.builder_config.in_situ else KINDS[:2],
            nuclei=tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            density=np.float32,
            tissue=np.float32,
            architecture=tfds.features.Text(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        """Yield the (key, example) pairs of TFDS, patient by patient."""
        config = self.builder_config
        for number in range(config.patients):
            patient = f"P{number:03d}"
            rng = np.random.default_rng(stable_seed("phantom", config.seed, patient))
            style = patient_style(rng)
            share = rng.uniform(0.2, 0.6)
            in_situ_share = rng.uniform(0.15, 0.45) if config.in_situ else 0.0  # of what is not malignant
            for index in range(config.patches):
                label = index
                if index >= 2 + config.in_situ:  # one patch of each class, or a patient could not be scored alone
                    label = int(rng.random() < share)
                    if config.in_situ and not label:
                        label = 2 * int(rng.random() < in_situ_share)
                patch = _render_at_scale(style, label, rng, config)
                row, column = divmod(index, PATCHES_PER_ROW)
                x, y = column * config.size, row * config.size
                yield (
                    f"{patient}_{index:03d}",
                    {
                        "image": patch.image,
                        "label": label,
                        "patient": patient,
                        "x": x,
                        "y": y,
                        "path": f"histology_phantom/{config.name}/{patient}/{index}",
                        "nuclei": patch.nuclei,
                        "density": patch.density,
                        "tissue": patch.tissue,
                        "architecture": patch.architecture,
                    },
                )


def _render_at_scale(style: PatientStyle, label: int, rng: np.random.Generator, config: PhantomConfig) -> Patch:
    """Render a patch, and draw as many random numbers as at the default size and scale.

    The patches after it, and their classes, are then the same at every scale.
    """
    at_scale = copy.deepcopy(rng)
    patch = render_patch(style, label, rng, PhantomConfig.size, PhantomConfig.mpp)
    if (config.size, config.mpp) == (PhantomConfig.size, PhantomConfig.mpp):
        return patch
    return render_patch(style, label, at_scale, config.size, config.mpp)
