"""Load an exported classifier, its networks and its model card, and predict patches with it."""

from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError, field_serializer, model_validator

from bcgan import machine, renamed, runs
from bcgan.classes import check_names
from bcgan.classify import calibration, context
from bcgan.classify.calibration import Calibration
from bcgan.classify.context import Context
from bcgan.errors import InputError
from bcgan.gan import quality_filter
from bcgan.predict import engines, orientations
from bcgan.preprocess import stain
from bcgan.preprocess.images import enhance, resize_patches
from bcgan.settings import ClassName, Settings
from bcgan.sizes import MIN_TISSUE_FRACTION
from bcgan.slides.scale import ModelScale
from bcgan.slides.tissue import is_colorless, tissue_fraction

SHIPPED = Path(__file__).parents[1] / "shipped" / "idc_extended"
CARD = "classifier.json"
FILES = ("classifier.keras", "reference_cnn.keras", "quality_filter.npz")
VERDICTS = ("scored", "abstained", "out_of_distribution", "unreadable", "no_tissue")
SCORED, ABSTAINED, OUT_OF_DISTRIBUTION, UNREADABLE, NO_TISSUE = range(len(VERDICTS))
REJECTIONS = (VERDICTS[NO_TISSUE], VERDICTS[OUT_OF_DISTRIBUTION])  # classes of its own in WSInfer's format
DIGITS = 6  # decimals of probabilities and uncertainties


class Thresholds(Settings):
    """The thresholds that turn a calibrated probability of the second of two classes into a label."""

    malignant: float  # a patch with at least this probability is of the second class
    abstain_range: tuple[float, float]  # no label between these probabilities

    @property
    def limits(self) -> tuple[float, float, float]:
        """Return the lower end of the abstain range, the malignant threshold and the upper end."""
        return self.abstain_range[0], self.malignant, self.abstain_range[1]


class ConfidenceThreshold(Settings):
    """The threshold that turns calibrated probabilities of more than two classes into a label."""

    min_confidence: float  # least probability of the most probable class with which it becomes the label

    @property
    def limits(self) -> tuple[float, float, float]:
        """Return the limits of the most probable class's probability, as `Thresholds.limits` does."""
        return -1.0, self.min_confidence, self.min_confidence


class Enhancement(Settings):
    """The `preprocess` settings that changed the training patches; other patches are changed likewise."""

    blur: Literal["none", "gaussian", "median"] = "none"
    clahe: bool = False
    stain_normalization: Literal["none", "macenko"] = "none"


class Card(Settings):
    """The model card that `bcgan export` writes next to a classifier."""

    intended_use: str
    classes: tuple[ClassName, ...] = Field(min_length=2)  # in the order of their labels
    size: int  # side of a patch, pixels
    microns_per_pixel: float | None  # of those pixels; None if it is not known
    image_size: tuple[int, int] | None = None  # width and height of the training images, if all had one size
    downsample: float = 1.0  # pixels of a training image per pixel of the patch
    reference_cnn_size: int = 50  # side of the reference CNN's input, pixels: that of the run's patches before any crop
    min_tissue: float = MIN_TISSUE_FRACTION  # fraction of a patch that has to be tissue for it to be predicted
    enhancement: Enhancement = Enhancement()  # of every patch before it is predicted
    tta_views: int  # flips and rotations averaged
    calibration: Calibration
    thresholds: Thresholds | ConfidenceThreshold  # of a patch by itself
    spatial_context: Context | None  # how neighboring patches are combined if coordinates are known
    spatial_context_thresholds: Thresholds | ConfidenceThreshold | None  # of a patch with neighbors
    ood_threshold: float  # distance, as a multiple of the quality filter's limit, beyond which a patch is rejected
    training_data: dict[str, int | str | list[str]]  # experiment, data, networks, patients, patches
    metrics: dict[str, dict[str, dict[str, float | int | None]]]  # set: metric: value, low, high, seeds
    sha256: dict[str, str]
    explanations: dict[str, bool] = {}  # explanation method: whether it passed its test
    explained_network: str = ""  # the network that those tests were made on, which is not the exported ensemble
    litert_max_abs_error: float | None = None  # of probabilities compared with Keras; None if there is no .tflite file

    @model_validator(mode="after")
    def _check_classes_and_thresholds(self) -> "Card":
        check_names(self.classes)
        kind = Thresholds if len(self.classes) == 2 else ConfidenceThreshold
        if not all(isinstance(value, kind | None) for value in (self.thresholds, self.spatial_context_thresholds)):
            raise ValueError(f"thresholds: these are not those of {len(self.classes)} classes")
        return self

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, values: dict) -> dict:
        """Accept the names of cards that earlier versions wrote."""
        return renamed.upgrade_card(values)

    @field_serializer("calibration", "spatial_context")
    def _by_name(self, value: Calibration | Context | None) -> dict | None:
        return value and value._asdict()

    @property
    def is_trained_on_all(self) -> bool:
        """Return whether the networks were trained on held-out patients too, so that `metrics` are those of others."""
        return "calibrated" in self.training_data


class Predictions(NamedTuple):
    """The predictions of n patches; arrays of shape (n,), but for the last.

    Attributes:
        probability: Calibrated probability of the second of two classes, such as malignant, or of the most probable one
            of more; NaN if the verdict is out_of_distribution or no_tissue.
        uncertainty: Standard deviation of the probability over the orientations that were averaged; NaN likewise.
        called: Predicted label; -1 unless the verdict is scored.
        verdict: Index into VERDICTS.
        threshold: Probability from which on the patch is called the second of two classes, or has a label at all.
        class_probabilities: Calibrated probability of each class, (n, classes); NaN likewise.
    """

    probability: np.ndarray
    uncertainty: np.ndarray
    called: np.ndarray
    verdict: np.ndarray
    threshold: np.ndarray
    class_probabilities: np.ndarray


class Model:
    """A classifier with its card: `predict` takes patches, `predict_image` takes a file.

    Attributes:
        card: The model card.
        engine: Name of the engine that runs the networks.
        folder: That it was loaded from.
        fast: Whether all orientations are averaged only near a threshold.
    """

    def __init__(
        self, card: Card, engine: engines.Engine, fitted_filter: quality_filter.QualityFilter, folder: Path,
        fast: bool = False,
    ):  # fmt: skip
        """Take the parts of an exported classifier; `load` reads them from a folder.

        Args:
            fitted_filter: The quality filter, whose distance ratio decides which patches are out of distribution.
            fast: Ignored if the card has no more than FAST_VIEWS orientations.
        """
        self.card, self.fast = card, fast and card.tta_views > orientations.FAST_VIEWS
        self.engine, self._score, self._features = engine
        self._quality_filter = fitted_filter
        self.folder = folder

    @property
    def scale(self) -> ModelScale:
        """Return the scale at which the model takes images."""
        card = self.card
        return ModelScale(card.size, card.microns_per_pixel, card.image_size, card.downsample)

    @cached_property
    def network(self):
        """Return the keras.Model, which computes in float32; it is read on first use."""
        return self.load_network(FILES[0])

    def load_network(self, name: str):
        """Read one of the model's networks, a keras.Model that computes in float32."""
        machine.prepare_environment(tensorflow=True)
        from bcgan.models import weights

        return weights.cast_to_float32(weights.load_model(self.checked_file(name)))

    def checked_file(self, name: str) -> Path:
        """Return the path of one of FILES.

        Raises:
            InputError: If it was changed after the model was loaded.
        """
        path = renamed.model_file(self.folder, name)
        if runs.hash_file(path) != self.card.sha256[name]:
            raise InputError(f"{path} was changed after it was checked. Load the folder again.")
        return path

    def predict(
        self, images: np.ndarray, coords: np.ndarray | None = None, has_tissue: np.ndarray | None = None
    ) -> Predictions:
        """Predict patches.

        Args:
            images: uint8, (n, size, size, 3), RGB, at the card's scale.
            coords: integers, (n, 2). x and y of each patch in one image, pixels at the card's scale. With them, and if
                the card has a spatial context, the predictions of neighboring patches are used. Defaults to `None`:
                each patch by itself.
            has_tissue: bool, (n,). Whether a patch contains enough tissue. Defaults to what the patch itself shows.

        Raises:
            ValueError: If the images or the coordinates have another shape or type.

        Examples:
            >>> import bcgan, numpy as np
            >>> model = bcgan.load()
            >>> white = np.full((1, 50, 50, 3), 255, np.uint8)
            >>> model.predict(white).called
            array([-1])
        """
        images = self._check_inputs(images, coords)
        if not len(images):
            empty = (np.zeros(0, dtype) for dtype in (float, float, int, int, float))
            return Predictions(*empty, np.zeros((0, len(self.card.classes))))
        if has_tissue is None:
            has_tissue = tissue_fraction(images) >= self.card.min_tissue
        prepared = self.prepare(images, coords)
        by_class, deviation, limits = self._probabilities(prepared, coords, has_tissue)
        most_probable = by_class.argmax(1)
        is_binary = len(self.card.classes) == 2
        # The class whose probability is given: the second of two, or the most probable one of more.
        rows_and_classes = np.arange(len(images)), np.ones(len(images), int) if is_binary else most_probable
        probability, uncertainty = by_class[rows_and_classes], deviation[rows_and_classes]
        low, threshold, high = limits.T
        verdict = np.where((probability > low) & (probability < high), ABSTAINED, SCORED)
        verdict[(self._ood_scores(prepared) > self.card.ood_threshold) | is_colorless(images)] = OUT_OF_DISTRIBUTION
        verdict[~has_tissue] = NO_TISSUE
        label = probability >= threshold if is_binary else most_probable
        called = np.where(verdict == SCORED, label, -1).astype(int)
        hidden = (verdict == OUT_OF_DISTRIBUTION) | (verdict == NO_TISSUE)
        probability, uncertainty = (np.where(hidden, np.nan, values) for values in (probability, uncertainty))
        by_class[hidden] = np.nan
        return Predictions(probability, uncertainty, called, verdict, threshold, by_class)

    def probabilities(self, images: np.ndarray, coords: np.ndarray | None = None) -> np.ndarray:
        """Return calibrated probabilities, also of patches that `predict` would reject.

        They are those of the second of two classes, float (n,), or of each of more, (n, classes). Arguments and errors
        are those of `predict`.
        """
        images, num_classes = self._check_inputs(images, coords), len(self.card.classes)
        by_class = np.zeros((0, num_classes))
        if len(images):
            by_class = self._probabilities(self.prepare(images, coords), coords, np.ones(len(images), bool))[0]
        return by_class[:, 1] if num_classes == 2 else by_class

    def predict_image(self, source: Path | str | bytes, mpp: float | None = None) -> list[dict]:
        """Predict an image file of any format and size, as `bcgan predict` does.

        Args:
            source: A path, or the bytes of an encoded image.
            mpp: Microns per pixel. Defaults to what the file states.

        Returns:
            One row for each patch, with the columns of `bcgan predict`.

        Raises:
            ValueError, OSError: If the image cannot be read or its scale is not known.
            InputError: If `mpp` is not a positive number.
        """
        from bcgan.predict.predict import predict_image

        return predict_image(self, source, mpp)

    def ood_scores(self, images: np.ndarray) -> np.ndarray:
        """Return out-of-distribution scores, float, (n,): the distance ratio to the nearest class of real patches.

        The distance ratio is that of the quality filter (`bcgan.gan.quality_filter.distance_ratio`), where 1 is the
        largest distance of an accepted synthetic patch.
        """
        return self._ood_scores(self.prepare(images))

    def prepare(self, images: np.ndarray, coords: np.ndarray | None = None) -> np.ndarray:
        """Return patches as the networks take them, uint8, (n, size, size, 3), enhanced as those of the training were.

        Stains are normalized in all patches together if `coords` is given, as they are then of one image; else in each
        alone.
        """
        settings = self.card.enhancement
        if settings == Enhancement() or not len(images):
            return images
        images = np.stack([enhance(image, settings) for image in images])
        if settings.stain_normalization == "macenko":
            groups = [images] if coords is not None else images[:, None]
            images = np.concatenate([stain.normalize(group)[0] for group in groups])
        return images

    def _ood_scores(self, images: np.ndarray) -> np.ndarray:
        """Return `ood_scores` of prepared patches."""
        features = self._features(resize_patches(images, self.card.reference_cnn_size))
        labels = [np.full(len(images), label) for label in range(len(self.card.classes))]
        return np.min([quality_filter.distance_ratio(self._quality_filter, features, label) for label in labels], 0)

    def _check_inputs(self, images: np.ndarray, coords: np.ndarray | None) -> np.ndarray:
        """Return the images as an array, uint8, (n, size, size, 3).

        Raises:
            ValueError: If the images or the coordinates have another shape or type.
        """
        size, images = self.card.size, np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be uint8, (n, {size}, {size}, 3). Received: {images.dtype}, {images.shape}")
        if coords is not None and np.shape(coords) != (len(images), 2):
            raise ValueError(f"coords must be ({len(images)}, 2), as many as images. Received: {np.shape(coords)}")
        return images

    def uses_neighbors(self, coords: np.ndarray | None, has_tissue: np.ndarray) -> np.ndarray:
        """Return whether the predictions of each patch's neighbors are used; bool, (n,). Arguments as of `predict`."""
        near = np.zeros(len(has_tissue), bool)
        if coords is not None and self.card.spatial_context:
            rows = np.flatnonzero(has_tissue)
            near[rows] = context.has_neighbors(np.asarray(coords)[rows], self.card.size)
        return near

    def _probabilities(
        self, images: np.ndarray, coords: np.ndarray | None, has_tissue: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return calibrated probabilities of prepared patches.

        Spatial context changes only patches that have neighbors. Patches without tissue do not count as neighbors.

        Returns:
            Probabilities and their deviations over the orientations, (n, classes) each; and for each patch the lower
            end of the abstain range, the threshold and the upper end, (n, 3).
        """
        card = self.card
        mean, deviation = orientations.average(self._score, card, images, self.fast)
        probability = calibration.apply(card.calibration, mean)
        limits = np.tile(card.thresholds.limits, (len(images), 1))
        near = self.uses_neighbors(coords, has_tissue)
        if near.any():
            rows = np.flatnonzero(has_tissue)
            corners, slides = np.asarray(coords)[rows], np.zeros(len(rows), int)
            refined = context.apply(card.spatial_context, mean[rows], corners, slides, card.size)
            probability[near] = refined[near[rows]]
            limits[near] = card.spatial_context_thresholds.limits
        # Rounded as rows are, so that the probability in a row and its label agree.
        probability, deviation = np.round(probability, DIGITS), np.round(deviation, DIGITS)
        if probability.ndim == 1:
            probability, deviation = np.stack([1 - probability, probability], 1), np.stack([deviation, deviation], 1)
        return probability, deviation, limits


def load(
    folder: str | Path | None = None, engine: str = "auto", small_job: bool = False, neighbours: bool = True,
    fast: bool = False,
) -> Model:  # fmt: skip
    """Load the classifier in a folder that `bcgan export` wrote.

    Args:
        folder: Defaults to `None`: the classifier that is bundled with bcgan.
        engine, small_job: As `bcgan.predict.engines.select_engine` takes them.
        neighbours: Whether the predictions of neighboring patches are used if coordinates are known. Defaults to True.
        fast: Whether all orientations are averaged only near a threshold. Defaults to False.

    Raises:
        InputError: If a file is missing or differs from the one that the card names, or the engine is not available.
    """
    root = Path(folder) if folder else SHIPPED
    remedy = "Choose a folder that `bcgan export` wrote." if folder else "Install bcgan again."
    for path in (root / CARD, *(renamed.model_file(root, name) for name in FILES)):
        if not path.is_file():
            raise InputError(f"{path} does not exist. {remedy}")
    try:
        card = Card.model_validate_json((root / CARD).read_text("utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = ": ".join([*map(str, first["loc"]), first["msg"]]) if first else error
        raise InputError(f"{root / CARD} is no card of a classifier ({reason}). {remedy}") from error
    litert_files = [name for name in engines.LITERT_FILES if name in card.sha256]
    for name in (*FILES, *litert_files):
        path = renamed.model_file(root, name)
        if not path.is_file() or runs.hash_file(path) != card.sha256.get(name):
            raise InputError(f"{path} is not the file that {CARD} names (its SHA-256 differs). {remedy}")
    try:
        selected_engine = engines.select_engine(engine, root, card.sha256, small_job)
    except ValueError as error:
        raise InputError(f"engine {engine}: {error}.") from error
    if not neighbours:
        card = card.model_copy(update={"spatial_context": None, "spatial_context_thresholds": None})
    return Model(card, selected_engine, quality_filter.load(renamed.model_file(root, FILES[2])), root, fast)
