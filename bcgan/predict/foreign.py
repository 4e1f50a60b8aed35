"""Load a classifier in WSInfer's format, such as one of the WSInfer Model Zoo, in place of one that bcgan exported.

A folder has torchscript_model.pt and config.json, by the zoo's model-config schema 1.0. Its network runs with PyTorch.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bcgan import runs
from bcgan.classes import canonical_class, check_names
from bcgan.classify.calibration import Calibration
from bcgan.errors import InputError
from bcgan.predict import engines, torch_files
from bcgan.predict.model import DIGITS, REJECTIONS, Card, ConfidenceThreshold, Model, Thresholds
from bcgan.slides.scale import MAX_MPP, MIN_MPP

BATCH = 32
ENGINE = "pytorch"


class Transform(BaseModel):
    """One step from a patch to the network's input."""

    model_config = ConfigDict(frozen=True)

    name: Literal["Resize", "ToTensor", "Normalize"]
    arguments: dict[str, Any] = {}


class ZooConfig(BaseModel):
    """The part of config.json that is read."""

    model_config = ConfigDict(frozen=True)

    class_names: tuple[str, ...] = Field(min_length=2)
    num_classes: int
    patch_size_pixels: int = Field(ge=8)
    spacing_um_px: Annotated[float, Field(ge=MIN_MPP, le=MAX_MPP)]
    transform: tuple[Transform, ...]
    apply_softmax: bool = True  # of QuPath's extension; False: the network gives probabilities

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if self.num_classes != len(self.class_names):
            raise ValueError(f"num_classes: {self.num_classes} are not the {len(self.class_names)} of class_names")
        return self


class ForeignModel(Model):
    """A classifier in WSInfer's format: a `Model` without calibration, orientations and spatial context.

    Args:
        config: Of the network.
        run_network: From uint8 patches, (n, size, size, 3), to the probability of each of `config.class_names`,
            float, (n, classes).
        digest: SHA-256 of the network's file.
        labels: The class that a class of the network counts as; a class that is missing here counts as itself.
        order: Classes in the order of their labels. Defaults to the network's.

    Raises:
        InputError: If `labels` names a class that the network does not have, `order` has others, or a class has a name
            that results use for something else.
    """

    def __init__(
        self,
        config: ZooConfig,
        run_network: Callable[[np.ndarray], np.ndarray],
        digest: str,
        labels: Mapping[str, str] | None = None,
        order: tuple[str, ...] | None = None,
    ):
        """Combine the network's classes as `labels` and `order` say; see the class for arguments and errors."""
        labels, names = labels or {}, config.class_names
        if unknown := set(labels) - set(names):
            raise InputError(f"--class {min(unknown)}: the classes of the network are {', '.join(names)}.")
        targets = [None if name in REJECTIONS else canonical_class(labels.get(name, name)) for name in names]
        classes = tuple(dict.fromkeys(target for target in targets if target is not None))
        if order and set(order) != set(classes):
            raise InputError(
                f"The network's classes are {', '.join(classes)}, and the data set's {', '.join(order)}. Say which is "
                f"which with --class {classes[-1]}={order[-1]}, once for each class."
            )
        classes = order or classes
        try:
            check_names(classes)
        except ValueError as error:
            raise InputError(f"class_names: {error} ({torch_files.CONFIG} of the network).") from error
        if len(classes) < 2:
            raise InputError(f"All classes of the network count as {classes[0]}. Leave a --class out.")
        self.config, self._run_network, self._digest = config, run_network, digest
        self._last = b"", np.zeros(0)  # a hash of patches, and the network's probabilities of them
        # (network's classes, classes), 1 where a class of the network counts as a class; rejections have a row of 0.
        self._membership = np.array([[target == name for name in classes] for target in targets], float)
        super().__init__(self._make_card(classes), engines.Engine(ENGINE, None, None), None, Path())

    def with_labels(self, labels: Mapping[str, str], order: tuple[str, ...] | None = None) -> "ForeignModel":
        """Return the model with other names or another order of its classes; see the class for arguments and errors."""
        return ForeignModel(self.config, self._run_network, self._digest, labels, order)

    @property
    def network(self) -> NoReturn:
        """Raise InputError: commands that need the Keras network cannot use this model."""
        raise InputError(
            "This command needs a Keras network, and --model is a TorchScript network. Give a folder that bcgan "
            "export wrote."
        )

    def _make_card(self, classes: tuple[str, ...]) -> Card:
        """Return a card for the network: not calibrated, one orientation, and the most probable class as the label."""
        size = self.config.patch_size_pixels
        return Card(
            intended_use="A classifier that bcgan did not train; see its own description.",
            classes=classes,
            size=size,
            microns_per_pixel=self.config.spacing_um_px,
            image_size=(size, size),
            tta_views=1,
            calibration=Calibration(1.0, 0.0),
            thresholds=(
                Thresholds(malignant=0.5, abstain_range=(0.5, 0.5)) if len(classes) == 2
                else ConfidenceThreshold(min_confidence=0.0)
            ),
            spatial_context=None,
            spatial_context_thresholds=None,
            ood_threshold=0.5,
            training_data={},
            metrics={},
            sha256={torch_files.TORCHSCRIPT: self._digest},
        )  # fmt: skip

    def _probabilities(
        self, images: np.ndarray, coords: np.ndarray | None, has_tissue: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return probabilities of uint8 patches, (n, size, size, 3), of which neighbors are not used.

        The network's rejections, such as no tissue, are left out; the other probabilities are scaled to a sum of 1.

        Returns:
            Probabilities and their deviations over orientations, which are NaN, (n, classes) each; and for each patch
            the lower end of the abstain range, the threshold and the upper end, (n, 3).
        """
        by_class = self._outputs(images) @ self._membership
        total = by_class.sum(1, keepdims=True)
        by_class = np.round(by_class / np.where(total > 0, total, 1), DIGITS)
        unknown = np.full_like(by_class, np.nan)  # of one orientation there is no deviation
        return by_class, unknown, np.tile(self.card.thresholds.limits, (len(images), 1))

    def _ood_scores(self, images):
        """Return the probability of REJECTIONS, which networks that bcgan wrote have among their classes."""
        rejecting = ~self._membership.any(1)
        return self._outputs(images)[:, rejecting].sum(1) if rejecting.any() else np.zeros(len(images))

    def _outputs(self, images: np.ndarray) -> np.ndarray:
        """Return the probability of each of the network's classes, (n, classes), once for the same patches.

        One prediction asks twice, for the probabilities and for the rejections, so the last result is kept.
        """
        digest, last = hashlib.blake2b(np.ascontiguousarray(images)).digest(), self._last
        if last[0] != digest:
            self._last = last = digest, self._run_network(images)
        return last[1]


def is_foreign(folder: Path) -> bool:
    """Return whether a folder has a classifier in WSInfer's format."""
    return (folder / torch_files.TORCHSCRIPT).is_file() and (folder / torch_files.CONFIG).is_file()


def load(folder: Path) -> ForeignModel:
    """Load a folder in WSInfer's format.

    Raises:
        InputError: If PyTorch is not installed, or a file cannot be read.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{folder} needs the package torch. Run: {torch_files.INSTALL}") from error
    path = folder / torch_files.CONFIG
    try:
        config = ZooConfig.model_validate(json.loads(path.read_text("utf-8")))
    except (ValidationError, ValueError) as error:
        reason = error.errors()[0] if isinstance(error, ValidationError) else None
        text = f"{'.'.join(map(str, reason['loc']))}: {reason['msg']}" if reason else str(error)
        raise InputError(f"{path} is no configuration of WSInfer ({text}). Compare it with the zoo's.") from error
    path = folder / torch_files.TORCHSCRIPT
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise InputError(f"{path} is no TorchScript network ({str(error).splitlines()[0]}). Copy it again.") from error

    def run_network(images: np.ndarray) -> np.ndarray:
        """Return the network's probabilities for uint8 patches, (n, size, size, 3): float64, (n, classes)."""
        outputs = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                inputs = [prepare(image, config.transform) for image in images[start : start + BATCH]]
                output = module(torch.from_numpy(np.stack(inputs)))
                outputs.append(torch.softmax(output, 1) if config.apply_softmax else output)
        probabilities = torch.cat(outputs).double().numpy()
        if probabilities.shape[1:] != (config.num_classes,):
            raise InputError(
                f"{path} gives {probabilities.shape[1:]} values a patch, and {torch_files.CONFIG} names "
                f"{config.num_classes} classes. Compare the two files with the zoo's."
            )
        return probabilities

    return ForeignModel(config, run_network, runs.hash_file(path))


def prepare(image: np.ndarray, transforms: tuple[Transform, ...]) -> np.ndarray:
    """Return a patch as the network takes it: float32, (3, side, side).

    Args:
        image: uint8, (size, size, 3).
        transforms: Steps of config.json: resizing, and normalization of values in [0, 1] by mean and deviation.
    """
    picture = Image.fromarray(image)
    mean, deviation = np.zeros(3), np.ones(3)
    for transform in transforms:
        if transform.name == "Resize":
            size = transform.arguments["size"]
            width_height = (size, size) if isinstance(size, int) else tuple(reversed(size))
            picture = picture.resize(width_height, Image.Resampling.BILINEAR)
        elif transform.name == "Normalize":
            mean, deviation = (np.array(transform.arguments[name]) for name in ("mean", "std"))
    scaled = (np.asarray(picture) / 255 - mean) / deviation
    return scaled.transpose(2, 0, 1).astype(np.float32)
