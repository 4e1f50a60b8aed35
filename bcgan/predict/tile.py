"""`bcgan tile`: annotated slides become labelled patches, an archive a slide, as the data set `idc` reads them."""

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np

from bcgan import progress
from bcgan.data.idc.scan import MICRONS
from bcgan.data.idc.scan import NATIVE_SIZE as SIZE
from bcgan.data.records import CLASSES, fingerprint, printable
from bcgan.errors import InputError
from bcgan.predict import slides
from bcgan.predict.images import GLASS, scaled, tiled
from bcgan.predict.slidewise import Slide
from bcgan.preprocess.images import decode

MOSTLY = 0.5  # least share of a patch's tissue that is annotated as malignant where its label is
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every archive's members, so that the same slide has the same bytes


class Patches(NamedTuple):
    """A `bcgan.predict.slidewise.Job`.

    annotations: a folder with <slide>.geojson, as QuPath writes it. malignant: its classes that are; tissue outside
    of them is benign. patient: a regular expression that finds the patient in a slide's name; None: all of it, without
    its suffix. microns_per_pixel: of the slides; None: as they say, or the patches' own.
    """

    out: Path
    annotations: Path
    malignant: tuple[str, ...]
    patient: str | None = None
    microns_per_pixel: float | None = None
    name: str = "tile"
    suffix: str = ".zip"
    folders: bool = False

    def settings(self, slide: Slide) -> Any:
        found = self._annotation(slide)
        return list(self._replace(out=None, annotations=fingerprint((found,) if found else ())))

    def write(self, slide: Slide, path: Path) -> dict[str, int]:
        """The number of patches by class.

        Raises:
            ValueError: no annotation, one that is no GeoJSON, a name without a patient, or no readable image.
        """
        patient, annotation = patient_of(slide, self.patient), self._annotation(slide)
        if not annotation:
            raise ValueError(
                f"{self.annotations} holds no {slide.name}.geojson. A slide without malignant tissue needs one without "
                "features."
            )
        polygons = rings(annotation, self.malignant)
        if slides.is_slide(slide.path):
            patches, places, scale, *_ = slides.read(slide.path, SIZE, MICRONS, self.microns_per_pixel)
        else:
            scale = MICRONS / (self.microns_per_pixel or MICRONS)
            name = str(slide.path)
            patches, places = tiled(scaled(decode(slide.path.read_bytes(), name), scale, name), SIZE)
        labels = label(patches, places, scale, polygons)
        number = int(hashlib.sha256(slide.name.encode()).hexdigest()[:6], 16)  # tells slides of one patient apart
        with zipfile.ZipFile(path, "w") as archive:
            for patch, (x, y), one in zip(patches, places, labels, strict=True):
                member = f"{patient}/{one}/{patient}_idx{number}_x{x}_y{y}_class{one}.png"
                encoded = cv2.imencode(".png", cv2.cvtColor(patch, cv2.COLOR_RGB2BGR))[1]
                archive.writestr(zipfile.ZipInfo(member, EPOCH), encoded.tobytes())
        return {name: int((labels == value).sum()) for value, name in enumerate(CLASSES)}

    def _annotation(self, slide: Slide) -> Path | None:
        named = (self.annotations / f"{name}.geojson" for name in (slide.name, slide.path.stem))
        return next(filter(Path.exists, named), None)


def patient_of(slide: Slide, pattern: str | None) -> str:
    """The pattern's first group that matches, or all that it matches where it has none; what a patch's
    name may not hold is escaped, as in an address.

    Raises:
        ValueError: the pattern finds nothing.
    """
    found = re.search(pattern or ".*", slide.name if pattern else printable(slide.path.stem))
    groups = found.groups() or (found[0],) if found else ()
    if not (name := next(filter(None, groups), None)):
        raise ValueError(f"no patient in {slide.name}: {pattern} finds none. Change --patient.")
    return quote(name, safe="").replace("_", "%5F")


def rings(path: Path, malignant: tuple[str, ...]) -> list[list[np.ndarray]]:
    """The malignant polygons of a GeoJSON file, each as its rings, float64 (points, 2), x and y in the slide's pixels;
    rings after the first are holes. Classes that are taken for benign are told.

    Raises:
        ValueError: it is no GeoJSON of polygons.
        InputError: what is annotated as malignant is a point or a line.
    """
    try:
        given = json.loads(path.read_text("utf-8"))
        features = given.get("features", [given]) if isinstance(given, dict) else given
        classes, wanted = [_class_of(one["properties"]) for one in features], {name.lower() for name in malignant}
        chosen = [one["geometry"] for one, name in zip(features, classes, strict=True) if name.lower() in wanted]
        if odd := {one["type"] for one in chosen} - {"Polygon", "MultiPolygon"}:
            where = printable(str(path))
            raise InputError(f"{where}: a {min(odd)} of a malignant class is no area. Remove it, or draw one.")
        several = {"Polygon": lambda places: [places], "MultiPolygon": lambda places: places}
        polygons = [polygon for one in chosen for polygon in several[one["type"]](one["coordinates"])]
        found = [[np.array(ring, float)[:, :2] for ring in polygon] for polygon in polygons]  # a height is left out
        if not all(len(ring) > 2 and np.isfinite(ring).all() for polygon in found for ring in polygon):
            raise ValueError("a ring needs three points")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is no GeoJSON of polygons as QuPath writes it ({error!r})") from error
    if others := sorted({name for name in classes if name and name.lower() not in wanted}):
        progress.log.info(
            "tile: %s: %s taken for benign; --malignant CLASS names another class",
            printable(str(path)),
            printable(", ".join(others)),
        )
    return found


def label(patches: np.ndarray, places: np.ndarray, scale: float, polygons: list[list[np.ndarray]]) -> np.ndarray:
    """1 for every patch of whose tissue MOSTLY lies in the polygons, else 0.

    Args:
        patches: uint8, (n, SIZE, SIZE, 3), each with tissue.
        places: integers, (n, 2). x and y of the patches, pixels at their own scale.
        scale: float. The slide's pixels for each of those.
    """
    if not len(places):
        return np.zeros(0, int)
    width, height = places.max(0) + SIZE
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:  # by the even-odd rule, so that holes stay open
        cv2.fillPoly(mask, [np.rint(ring / scale).astype(np.int32) for ring in polygon], 1)
    inside = np.stack([mask[y : y + SIZE, x : x + SIZE] for x, y in places])
    return (np.average(inside, (1, 2), patches.min(-1) < GLASS) >= MOSTLY).astype(int)


def _class_of(properties: dict[str, Any]) -> str:
    """As QuPath 0.3 and newer write it; "" where an annotation has no class."""
    found = properties.get("classification") or {}
    return found.get("name") or ": ".join(found.get("names", ()))
