"""A classifier that can be handed on: a folder of networks, and a card that says how to read what comes out."""

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_serializer, model_validator

from bcgan import machine, renamed, runs
from bcgan.classify import calibration, context
from bcgan.classify.calibration import Calibration
from bcgan.classify.context import Context
from bcgan.data.records import CLASSES
from bcgan.data.views import view
from bcgan.errors import InputError
from bcgan.gan import quality_filter
from bcgan.predict import engines
from bcgan.preprocess.images import GAN_SIZE, at_size
from bcgan.slides.scale import ModelScale
from bcgan.slides.tissue import MIN_TISSUE_FRACTION, is_colourless, tissue_fraction

SHIPPED = Path(__file__).parents[1] / "shipped" / "idc_extended"
CARD = "classifier.json"
FILES = ("classifier.keras", "reference_cnn.keras", "quality_filter.npz")
VERDICTS = ("scored", "abstained", "out_of_distribution", "unreadable", "no_tissue")
SCORED, ABSTAINED, OUT_OF_DISTRIBUTION, UNREADABLE, NO_TISSUE = range(len(VERDICTS))
DIGITS = 6  # decimals of probabilities and uncertainties


class Thresholds(BaseModel):
    """How a calibrated probability becomes a label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    malignant: float  # a patch with at least this probability is malignant
    abstain_range: tuple[float, float]  # no label between these probabilities

    @property
    def limits(self) -> tuple[float, float, float]:
        """The lower end of the abstain range, the malignant threshold, the upper end."""
        return self.abstain_range[0], self.malignant, self.abstain_range[1]


class Card(BaseModel):
    """The model card that `bcgan export` writes beside a classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intended_use: str
    classes: tuple[str, str]
    size: int  # side of a patch, pixels
    microns_per_pixel: float | None  # of those pixels; None if it is not known
    image_size: tuple[int, int] | None = None  # width and height of the training images, if all had one size
    downsample: float = 1.0  # pixels of a training image per pixel of the patch
    tta_views: int  # flips and rotations averaged
    calibration: Calibration
    thresholds: Thresholds  # of a patch by itself
    spatial_context: Context | None  # how neighbouring patches are combined if coordinates are known
    spatial_context_thresholds: Thresholds | None  # of a patch with neighbours
    ood_threshold: float  # distance, as a multiple of the quality filter's limit, beyond which a patch is rejected
    training_data: dict[str, int | str | list[str]]  # experiment, data, networks, patients, patches
    metrics: dict[str, dict[str, dict[str, float | int | None]]]  # set: metric: value, low, high, seeds
    sha256: dict[str, str]
    explanations: dict[str, bool] = {}  # explanation method: whether it passed its test
    explained_network: str = ""  # the network that those tests were made on, which is not the exported ensemble
    litert_max_abs_error: float | None = None  # of probabilities compared with Keras; None if there is no .tflite file

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, values: dict) -> dict:
        """Accept the names of cards that earlier versions wrote."""
        return renamed.upgrade_card(values)

    @field_serializer("calibration", "spatial_context")
    def _by_name(self, value: Calibration | Context | None) -> dict | None:
        return value and value._asdict()


class Predictions(NamedTuple):
    """The predictions of n patches; arrays of shape (n,).

    probability: float, calibrated, of malignancy; NaN where the verdict is out_of_distribution or no_tissue.
    uncertainty: float, standard deviation over the orientations; NaN likewise. called: int, 0 or 1; -1 where the
    verdict is not scored. verdict: int, index into VERDICTS. threshold: float, at or above which the patch is called
    malignant.
    """

    probability: np.ndarray
    uncertainty: np.ndarray
    called: np.ndarray
    verdict: np.ndarray
    threshold: np.ndarray


class Model:
    """A classifier with its card; `predict` takes patches, `predict_image` a file. engine: the name of what runs it."""

    def __init__(self, card: Card, engine: engines.Engine, chosen: quality_filter.QualityFilter, folder: Path):
        self.card = card
        self.engine, self._score, self._features = engine
        self._quality_filter = chosen
        self._folder = folder

    @property
    def scale(self) -> ModelScale:
        """At what scale the model sees images."""
        card = self.card
        return ModelScale(card.size, card.microns_per_pixel, card.image_size, card.downsample)

    @cached_property
    def network(self):
        """The keras.Model, computing in float32; read when it is first asked for."""
        machine.prepare_environment(tensorflow=True)
        from bcgan.models import weights

        path = self._folder / FILES[0]
        if runs.hash_file(path) != self.card.sha256[path.name]:
            raise InputError(f"{path} was changed after it was checked. Load the folder again.")
        return weights.in_float32(weights.load_model(path))

    def predict(
        self, images: np.ndarray, places: np.ndarray | None = None, has_tissue: np.ndarray | None = None
    ) -> Predictions:
        """Score patches.

        Args:
            images: uint8, (n, size, size, 3), RGB, at the card's scale.
            places: integers, (n, 2). x and y of each patch in one image, pixels at the card's scale; with them, and
                where the card has a context, the predictions of neighbouring patches are used. None: each patch by
                itself.
            has_tissue: bool, (n,). Whether a patch contains enough tissue. Defaults to what the patch itself shows.

        Raises:
            ValueError: If the images, or their places, have another shape or type.

        Examples:
            >>> import bcgan, numpy as np
            >>> model = bcgan.load()
            >>> white = np.full((1, 50, 50, 3), 255, np.uint8)
            >>> model.predict(white).called
            array([-1])
        """
        images = self._checked(images, places)
        if not len(images):
            return Predictions(*(np.zeros(0, kind) for kind in (float, float, int, int, float)))
        if has_tissue is None:
            has_tissue = tissue_fraction(images) >= MIN_TISSUE_FRACTION
        probability, uncertainty, limits = self._probabilities(images, places, has_tissue)
        low, threshold, high = limits.T
        verdict = np.where((probability > low) & (probability < high), ABSTAINED, SCORED)
        verdict[(self.strangeness(images) > self.card.ood_threshold) | is_colourless(images)] = OUT_OF_DISTRIBUTION
        verdict[~has_tissue] = NO_TISSUE
        called = np.where(verdict == SCORED, probability >= threshold, -1).astype(int)
        hidden = (verdict == OUT_OF_DISTRIBUTION) | (verdict == NO_TISSUE)
        probability, uncertainty = (np.where(hidden, np.nan, values) for values in (probability, uncertainty))
        return Predictions(probability, uncertainty, called, verdict, threshold)

    def probabilities(self, images: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        """Calibrated probabilities of malignancy whatever the verdict, to measure what the verdicts leave out; float,
        (n,). Arguments and errors as `predict` has them."""
        images = self._checked(images, places)
        return self._probabilities(images, places, np.ones(len(images), bool))[0] if len(images) else np.zeros(0)

    def predict_image(self, source: Path | str | bytes, mpp: float | None = None) -> list[dict]:
        """Score an image file of any format and size, as `bcgan predict` does.

        Args:
            source: a path, or an encoded image's bytes.
            mpp: float. Microns per pixel. Defaults to what the file states.

        Returns:
            A row a patch, with the columns of `bcgan predict`.

        Raises:
            ValueError, OSError: If the image cannot be read or its scale is not known.
        """
        from bcgan.predict.predict import predict_image

        return predict_image(self, source, mpp)

    def strangeness(self, images: np.ndarray) -> np.ndarray:
        """Distance from the nearer class of real patches, as a share of the quality filter's limit; float, (n,)."""
        features = self._features(at_size(images, GAN_SIZE))
        return np.min(
            [
                quality_filter.distance_ratio(self._quality_filter, features, np.full(len(images), label))
                for label in (0, 1)
            ],
            axis=0,
        )

    def _checked(self, images: np.ndarray, places: np.ndarray | None) -> np.ndarray:
        size, images = self.card.size, np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be uint8, (n, {size}, {size}, 3). Received: {images.dtype}, {images.shape}")
        if places is not None and np.shape(places) != (len(images), 2):
            raise ValueError(f"places must be ({len(images)}, 2), as many as images. Received: {np.shape(places)}")
        return images

    def _probabilities(
        self, images: np.ndarray, places: np.ndarray | None, has_tissue: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probability and uncertainty, (n,), and the limits that apply to each patch, (n, 3): no call above the first
        and below the last, malignant from the second on. A patch without neighbours counts as one by itself, and glass
        is nobody's neighbour."""
        card = self.card
        raw = [self._score(np.ascontiguousarray(view(images, number))) for number in range(card.tta_views)]
        each = np.stack([calibration.apply(card.calibration, values) for values in raw])
        probability = calibration.apply(card.calibration, np.mean(raw, axis=0))
        limits = np.tile(card.thresholds.limits, (len(images), 1))
        if places is not None and card.spatial_context:
            rows = np.flatnonzero(has_tissue)
            corners, slide = np.asarray(places)[rows], np.zeros(len(rows), int)
            near = context.has_neighbours(corners, card.size)
            refined = context.refine(card.spatial_context, np.mean(raw, axis=0)[rows], corners, slide, card.size)
            probability[rows[near]] = refined[near]
            limits[rows[near]] = card.spatial_context_thresholds.limits
        # As many digits as rows have, so that a row's probability and its label agree.
        return np.round(probability, DIGITS), np.round(each.std(axis=0), DIGITS), limits


def load(folder: str | Path | None = None, engine: str = "auto", few: bool = False, neighbours: bool = True) -> Model:
    """The classifier in a folder that `bcgan export` wrote; the one that comes with bcgan where folder is None.

    Args:
        engine, few: as `bcgan.predict.engines.choose` takes them.
        neighbours: bool. Whether the predictions of neighbouring patches are used where places are known. Defaults to
            True.

    Raises:
        InputError: a file is missing or is not the one that the card names, the card names other classes, or the
            engine cannot be had.
    """
    place = Path(folder) if folder else SHIPPED
    remedy = "Choose a folder that `bcgan export` wrote." if folder else "Install bcgan again."
    for path in (place / CARD, *(renamed.model_file(place, name) for name in FILES)):
        if not path.is_file():
            raise InputError(f"{path} does not exist. {remedy}")
    try:
        card = Card.model_validate_json((place / CARD).read_text("utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"{place / CARD} is no card of a classifier ({str(error).splitlines()[0]}). {remedy}"
        ) from error
    for name in (*FILES, *(name for name in engines.LITERT_FILES if name in card.sha256)):
        path = renamed.model_file(place, name)
        if not path.is_file() or runs.hash_file(path) != card.sha256.get(name):
            raise InputError(f"{path} is not the file that {CARD} names (its SHA-256 differs). {remedy}")
    if card.classes != CLASSES:
        raise InputError(f"{place / CARD}: classes {card.classes}, and this bcgan knows {CLASSES}. {remedy}")
    try:
        chosen = engines.choose(engine, place, card.sha256, few)
    except ValueError as error:
        raise InputError(f"engine {engine}: {error}.") from error
    if not neighbours:
        card = card.model_copy(update={"spatial_context": None, "spatial_context_thresholds": None})
    return Model(card, chosen, quality_filter.load(renamed.model_file(place, FILES[2])), place)
