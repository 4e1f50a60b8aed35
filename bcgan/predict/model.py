"""A classifier that can be handed on: a folder of networks, and a card that says how to read what comes out."""

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_serializer

from bcgan import machine, runs
from bcgan.classify import calibration, context
from bcgan.classify.calibration import Calibration
from bcgan.classify.context import Context
from bcgan.data.records import CLASSES
from bcgan.data.views import view
from bcgan.errors import InputError
from bcgan.gan import selection
from bcgan.predict import engines
from bcgan.predict.images import GLASS
from bcgan.preprocess.images import GAN_SIZE, at_size

SHIPPED = Path(__file__).parents[1] / "shipped" / "idc_extended"
CARD = "classifier.json"
FILES = ("classifier.keras", "referee.keras", "selector.npz")
COLOURLESS = 1.0  # grey levels between a pixel's channels, mean over a patch's tissue; real patches have 1.6 and more
VERDICTS = ("scored", "abstained", "out_of_distribution", "unreadable")


class Calls(BaseModel):
    """How a calibrated probability becomes a call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float  # at or above which a patch is called malignant
    abstain: tuple[float, float]  # between which no call is made


class Card(BaseModel):
    """The side-car of a classifier, written by `bcgan export`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: str
    classes: tuple[str, str]
    size: int  # side of a patch, pixels
    microns_per_pixel: float | None  # of those pixels; None: not known
    views: int  # orientations averaged
    calibration: Calibration
    calls: Calls  # of a patch by itself
    context: Context | None  # how neighbours count where places are known
    context_calls: Calls | None  # of a patch among its neighbours
    outlier: float  # distance from real patches, as a share of the selector's limit, beyond which nothing is said
    trained: dict[str, int | str | list[str]]  # experiment, data, networks, patients, patches
    figures: dict[str, dict[str, dict[str, float | int | None]]]  # set: metric: value, low, high, seeds
    sha256: dict[str, str]
    litert: float | None = None  # how far the .tflite files' probabilities are from Keras's; None: no such files
    bfloat16: float | None = None  # the same of OpenVINO in bfloat16; None: too far, or not tried

    @field_serializer("calibration", "context")
    def _by_name(self, value: Calibration | Context | None) -> dict | None:
        return value and value._asdict()


class Judged(NamedTuple):
    """probability: calibrated, of malignancy. uncertainty: standard deviation over the views. called: 0 or 1.
    verdict: index into VERDICTS. (n,) each."""

    probability: np.ndarray
    uncertainty: np.ndarray
    called: np.ndarray
    verdict: np.ndarray


class Model:
    """A classifier with its card; `predict` takes patches. engine: the name of what runs it."""

    def __init__(self, card: Card, engine: engines.Engine, chosen: selection.Selector, folder: Path):
        self.card = card
        self.engine, self._score, self._features = engine
        self._selector = chosen
        self._folder = folder

    @cached_property
    def network(self):
        """The keras.Model, computing in float32; read when it is first asked for."""
        machine.prepare_environment(tensorflow=True)
        from bcgan.models import weights

        path = self._folder / FILES[0]
        if runs.hash_file(path) != self.card.sha256[path.name]:
            raise InputError(f"{path} was changed after it was checked. Load the folder again.")
        return weights.in_float32(weights.load_model(path))

    def predict(self, images: np.ndarray, places: np.ndarray | None = None) -> Judged:
        """Judge patches.

        Args:
            images: uint8, (n, size, size, 3), RGB, at the card's scale.
            places: integers, (n, 2). x and y of each patch in one image, pixels at the card's scale; with them, and
                where the card knows how, neighbours have a say. None: each patch by itself.

        Raises:
            ValueError: the images, or their places, have another shape or type.

        Examples:
            >>> import bcgan, numpy as np
            >>> model = bcgan.load()
            >>> white = np.full((1, 50, 50, 3), 255, np.uint8)
            >>> model.predict(white).probability.shape
            (1,)
        """
        side, images = self.card.size, np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise ValueError(f"images must be uint8, (n, {side}, {side}, 3). Received: {images.dtype}, {images.shape}")
        if places is not None and np.shape(places) != (len(images), 2):
            raise ValueError(f"places must be ({len(images)}, 2), as many as images. Received: {np.shape(places)}")
        if not len(images):
            return Judged(*(np.zeros(0, kind) for kind in (float, float, int, int)))
        found = [self._score(np.ascontiguousarray(view(images, number))) for number in range(self.card.views)]
        each = np.stack([calibration.apply(self.card.calibration, one) for one in found])
        probability = calibration.apply(self.card.calibration, np.mean(found, axis=0))
        calls = self.card.calls
        if places is not None and self.card.context:
            calls = self.card.context_calls
            slide = np.zeros(len(images), int)
            probability = context.refine(self.card.context, np.mean(found, axis=0), np.asarray(places), slide, side)
        low, high = calls.abstain
        verdict = np.where((probability > low) & (probability < high), 1, 0)
        verdict[(self.strangeness(images) > self.card.outlier) | _colourless(images)] = 2
        return Judged(probability, each.std(axis=0), (probability >= calls.threshold).astype(int), verdict)

    def strangeness(self, images: np.ndarray) -> np.ndarray:
        """Distance from the nearer class of real patches, as a share of the selector's limit; float, (n,)."""
        features = self._features(at_size(images, GAN_SIZE))
        return np.min(
            [selection.distances(self._selector, features, np.full(len(images), label)) for label in (0, 1)], axis=0
        )


def _colourless(images: np.ndarray) -> np.ndarray:
    """Whether what is no glass is grey, as no stain is; the networks would be sure that it is benign. Boolean, (n,)."""
    tissue = images.min(-1) < GLASS
    spread = (np.ptp(images, -1) * tissue).sum((1, 2), dtype=int)
    return tissue.any((1, 2)) & (spread < COLOURLESS * tissue.sum((1, 2)))


def load(folder: str | Path | None = None, engine: str = "auto", few: bool = False, neighbours: bool = True) -> Model:
    """The classifier in a folder that `bcgan export` wrote; the one that comes with bcgan where folder is None.

    Args:
        engine, few: as `bcgan.predict.engines.choose` takes them.
        neighbours: bool. Whether the patches around a patch have a say where places are known. Defaults to True.

    Raises:
        InputError: a file is missing or is not the one that the card names, the card names other classes, or the
            engine cannot be had.
    """
    place = Path(folder) if folder else SHIPPED
    remedy = "Choose a folder that `bcgan export` wrote." if folder else "Install bcgan again."
    for name in (CARD, *FILES):
        if not (place / name).is_file():
            raise InputError(f"{place / name} does not exist. {remedy}")
    try:
        card = Card.model_validate_json((place / CARD).read_text("utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"{place / CARD} is no card of a classifier ({str(error).splitlines()[0]}). {remedy}"
        ) from error
    for name in (*FILES, *(name for name in engines.LITERT_FILES if name in card.sha256)):
        if not (place / name).is_file() or runs.hash_file(place / name) != card.sha256.get(name):
            raise InputError(f"{place / name} is not the file that {CARD} names (its SHA-256 differs). {remedy}")
    if card.classes != CLASSES:
        raise InputError(f"{place / CARD}: classes {card.classes}, and this bcgan knows {CLASSES}. {remedy}")
    try:
        chosen = engines.choose(engine, place, card.sha256, few, card.bfloat16 is not None)
    except ValueError as error:
        raise InputError(f"engine {engine}: {error}.") from error
    if not neighbours:
        card = card.model_copy(update={"context": None, "context_calls": None})
    return Model(card, chosen, selection.load(place / "selector.npz"), place)
