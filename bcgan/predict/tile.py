"""`bcgan tile`: annotated slides become labelled patches, an archive a slide, as the data set `idc` reads them."""

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from bcgan.data.records import CLASSES, fingerprint
from bcgan.predict import slides
from bcgan.predict.images import read
from bcgan.predict.slidewise import Slide

MOSTLY = 0.5  # least share of a patch that is annotated as malignant where its label is
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every archive's members, so that the same slide has the same bytes


class Patches(NamedTuple):
    """A `bcgan.predict.slidewise.Job`.

    annotations: a folder with <slide>.geojson, as QuPath writes it. malignant: its classes that are; tissue outside
    of them is benign. patient: a regular expression that finds the patient in a slide's name; None: all of it, without
    its suffix. patch_microns: microns per pixel of the patches. microns_per_pixel: of the slides; None: as they say.
    """

    out: Path
    annotations: Path
    malignant: tuple[str, ...]
    patient: str | None = None
    size: int = 50
    patch_microns: float = 4.0
    microns_per_pixel: float | None = None
    name: str = "tile"
    suffix: str = ".zip"

    def settings(self, slide: Slide) -> Any:
        found = self._annotation(slide)
        return list(self._replace(out=None, annotations=fingerprint((found,) if found else ())))

    def write(self, slide: Slide, path: Path) -> dict[str, int]:
        """The number of patches by class.

        Raises:
            ValueError: no annotation, one that is no GeoJSON, a name without a patient, or no readable image.
        """
        if slide.path.is_dir():
            raise ValueError(f"{slide.path} is a folder. Give images and whole slides.")
        patient, annotation = patient_of(slide, self.patient), self._annotation(slide)
        if not annotation:
            raise ValueError(
                f"{self.annotations} holds no {slide.name}.geojson. A slide without malignant tissue needs one without "
                "features."
            )
        if slides.is_slide(slide.path):
            tiles = slides.read(slide.path, self.size, self.patch_microns, self.microns_per_pixel)
        else:
            known = self.microns_per_pixel or self.patch_microns
            tiles = read(slide.path, self.size, self.patch_microns / known)
        labels = label(tiles.places, self.size, tiles.scale, rings(annotation, self.malignant))
        number = int(hashlib.sha256(slide.name.encode()).hexdigest()[:6], 16)  # tells slides of one patient apart
        with zipfile.ZipFile(path, "w") as archive:
            for patch, (x, y), one in zip(tiles.patches, tiles.places, labels, strict=True):
                member = f"{patient}/{one}/{patient}_idx{number}_x{x}_y{y}_class{one}.png"
                encoded = cv2.imencode(".png", cv2.cvtColor(patch, cv2.COLOR_RGB2BGR))[1]
                archive.writestr(zipfile.ZipInfo(member, EPOCH), encoded.tobytes())
        return {name: int((labels == value).sum()) for value, name in enumerate(CLASSES)}

    def _annotation(self, slide: Slide) -> Path | None:
        named = (self.annotations / f"{name}.geojson" for name in (slide.name, slide.path.stem))
        return next(filter(Path.exists, named), None)


def patient_of(slide: Slide, pattern: str | None) -> str:
    """The pattern's first group, or all that it matches; what a file's name may not hold becomes "-".

    Raises:
        ValueError: the pattern is not found.
    """
    found = re.search(pattern, slide.name) if pattern else None
    if pattern and not found:
        raise ValueError(f"no patient in {slide.name}: {pattern} does not match. Change --patient.")
    name = found[found.re.groups and 1] if found else slide.path.stem
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)


def rings(path: Path, malignant: tuple[str, ...]) -> list[list[np.ndarray]]:
    """The malignant polygons of a GeoJSON file, each as its rings, float64 (points, 2), x and y in the slide's pixels;
    rings after the first are holes.

    Raises:
        ValueError: it is no GeoJSON of polygons.
    """
    try:
        given = json.loads(path.read_text("utf-8"))
        features = given.get("features", [given]) if isinstance(given, dict) else given
        wanted = {name.lower() for name in malignant}
        chosen = [one["geometry"] for one in features if _class_of(one["properties"]).lower() in wanted]
        several = {"Polygon": lambda places: [places], "MultiPolygon": lambda places: places}
        polygons = [polygon for one in chosen for polygon in several[one["type"]](one["coordinates"])]
        return [[np.asarray(ring, float).reshape(-1, 2) for ring in polygon] for polygon in polygons]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no GeoJSON of polygons as QuPath writes it ({error!r})") from error


def label(places: np.ndarray, size: int, scale: float, polygons: list[list[np.ndarray]]) -> np.ndarray:
    """1 for every patch of which MOSTLY lies in the polygons, else 0.

    Args:
        places: integers, (n, 2). x and y of the patches, pixels at their own scale.
        scale: float. The slide's pixels for each of those.
    """
    if not len(places):
        return np.zeros(0, int)
    width, height = places.max(0) + size
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:  # by the even-odd rule, so that holes stay open
        cv2.fillPoly(mask, [np.rint(ring / scale).astype(np.int32) for ring in polygon], 1)
    shares = [mask[y : y + size, x : x + size].mean() for x, y in places]
    return (np.array(shares) >= MOSTLY).astype(int)


def _class_of(properties: dict[str, Any]) -> str:
    """As QuPath 0.3 and newer write it; "" where an annotation has no class."""
    found = properties.get("classification") or {}
    return found.get("name") or ": ".join(found.get("names", ()))
