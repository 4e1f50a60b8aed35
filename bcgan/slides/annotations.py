"""Read the annotations of slides as QuPath exports them, and decide what each of their classes means."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bcgan.errors import InputError
from bcgan.slides.files import printable, strip_suffixes

BENIGN, MALIGNANT, IGNORED, REGION, UNDECIDED = "benign", "malignant", "ignored", "region", "undecided"
DEFAULTS = {
    "malignant": MALIGNANT, "tumor": MALIGNANT, "tumour": MALIGNANT,
    "benign": BENIGN, "normal": BENIGN, "stroma": BENIGN,
    "region*": REGION,
}  # fmt: skip
SUFFIXES = (".geojson", ".json")  # of annotation files, in any case
SHAPES_WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
GEOMETRIES = ("Polygon", "MultiPolygon", "GeometryCollection", *SHAPES_WITHOUT_AREA)
COMPUTED_TYPES = ("detection", "cell", "tile", "tmacore")  # types of QuPath objects that nobody drew as an annotation
MAX_COORDINATE = 2.0**31


class Polygon(NamedTuple):
    """One closed area of an annotation.

    Attributes:
        name: Class as the file spells it; "" where it has none.
        rings: float64 arrays (points, 2), x and y in slide pixels. Rings after the first are holes.
        area: Slide pixels inside the first ring, less those of the holes.
    """

    name: str
    rings: list[np.ndarray]
    area: float


class AnnotationFile(NamedTuple):
    """The annotations of one slide.

    Attributes:
        path: The file.
        polygons: All polygons with a class, in file order.
        shapes: Number of points and lines by (class, geometry type).
        unclassified: Number of annotations without a class.
        skipped: Number of objects that are no annotations, by their type.
    """

    path: Path
    polygons: list[Polygon]
    shapes: Counter
    unclassified: int
    skipped: Counter


class Decisions(NamedTuple):
    """What annotation classes mean.

    Attributes:
        labels: Pairs of a normalized class name and its label, sorted.
        outside: Label of tissue outside of all polygons, `BENIGN` or `IGNORED`.
        requested: Normalized names that the user decided.
    """

    labels: tuple[tuple[str, str], ...] = tuple(sorted(DEFAULTS.items()))
    outside: str = BENIGN
    requested: tuple[str, ...] = ()

    def resolve(self, name: str) -> tuple[str, str]:
        """Return the name under which a class is decided, and its label.

        A derived class such as `Tumor: Positive` counts as its base class, unless it is decided itself. Other names
        that end in `*` are ignored, as in QuPath.

        Returns:
            The normalized name and the label. Without a decision: the base class and `UNDECIDED`.
        """
        labels, parts = dict(self.labels), class_key(name).split(": ")
        for length in range(len(parts), 0, -1):
            key = ": ".join(parts[:length])
            if key in labels:
                return key, labels[key]
            if key.endswith("*"):
                return key, IGNORED
        return parts[0], UNDECIDED


def decide(
    classes: Iterable[str] = (),
    ignore: Iterable[str] = (),
    malignant: Iterable[str] = (),
    region: Iterable[str] = (),
    outside: str = BENIGN,
) -> Decisions:
    """Combine the decisions of the command line with the defaults.

    Args:
        classes: `NAME=LABEL` each, LABEL benign or malignant.
        ignore: Names of classes whose tissue is left out.
        malignant: Names of malignant classes.
        region: Names of classes that outline what was annotated.
        outside: Label of tissue outside of all polygons.

    Raises:
        InputError: A decision cannot be read, or contradicts another.
    """
    requests = []
    for text in classes:
        name, _, label = (part.strip() for part in text.rpartition("="))
        if label.lower() not in (BENIGN, MALIGNANT):
            raise InputError(f"--class: {text!r} is not NAME=benign or NAME=malignant. Write it so.")
        requests.append(("--class", name, label.lower()))
    requests += [("--ignore", name, IGNORED) for name in ignore]
    requests += [("--malignant", name, MALIGNANT) for name in malignant]
    requests += [("--region", name, REGION) for name in region]
    labels: dict[str, str] = {}
    for option, name, label in requests:
        if not (key := class_key(name)):
            raise InputError(f"{option}: {name!r} is an empty name. Give a class as QuPath shows it, such as Tumor.")
        if labels.setdefault(key, label) != label:
            raise InputError(f"{option}: {name!r} is decided twice, {labels[key]} and {label}. Decide it once.")
    return Decisions(tuple(sorted((DEFAULTS | labels).items())), outside, tuple(sorted(labels)))


def class_key(name: str) -> str:
    """Return a class name in the form in which names are compared: ` TUMOR:Positive` becomes `tumor: positive`."""
    parts = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).split(":")
    return ": ".join(filter(None, map(str.strip, parts)))


def find_annotation(folder: Path, slide_name: str) -> Path | None:
    """Return the annotation file of a slide: named as the slide is, with all, without the last or without its suffixes.

    Raises:
        InputError: Several files fit.
    """
    listing = _list_annotation_files(folder, folder.stat().st_mtime_ns)
    paths = [path for stem in _possible_stems(slide_name) for path in listing.get(stem, ())]
    if len(paths) > 1:
        first, second = (printable(str(path)) for path in paths[:2])
        raise InputError(f"{printable(slide_name)}: {first} and {second} both fit. Remove or rename one of them.")
    return paths[0] if paths else None


def find_orphans(folder: Path, slide_names: Iterable[str]) -> list[Path]:
    """Return the annotation files in a folder that belong to none of the slides."""
    stems = {stem for name in slide_names for stem in _possible_stems(name)}
    listing = _list_annotation_files(folder, folder.stat().st_mtime_ns)
    return [path for stem, paths in listing.items() if stem not in stems for path in paths]


def read_annotations(path: Path) -> AnnotationFile:
    """Read a GeoJSON file: a feature collection, a feature, a geometry, or a list of these.

    Raises:
        ValueError: It is no GeoJSON, or has an invalid polygon.
    """
    annotations = AnnotationFile(path, [], Counter(), 0, Counter())
    try:
        for feature in _iterate_features(json.loads(path.read_bytes())):  # a byte order mark tells its encoding
            annotations = _add_feature(annotations, feature)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{printable(str(path))} is no GeoJSON of polygons as QuPath writes it ({error!r}). Export it again."
        ) from error
    return annotations


def describe_unused(annotations: AnnotationFile) -> list[str]:
    """Return sentences on what in a file decides nothing."""
    where, sentences = printable(str(annotations.path)), []
    if annotations.unclassified:
        sentences.append(
            f"{where}: {annotations.unclassified} annotations without a class decide nothing. Set it in QuPath."
        )
    if shapes := [f"{num} {kind} of {escape_name(name)}" for (name, kind), num in sorted(annotations.shapes.items())]:
        sentences.append(f"{where}: points and lines have no area and decide nothing: {', '.join(shapes)}")
    if skipped := [f"{num} {kind}" for kind, num in sorted(annotations.skipped.items())]:
        sentences.append(f"{where}: these objects are skipped: {', '.join(skipped)}")
    return sentences


def check_areas(annotations: AnnotationFile, decisions: Decisions) -> None:
    """Check that every malignant class of a file has a polygon.

    Raises:
        InputError: A malignant class has only points or lines.
    """
    with_area = {decisions.resolve(polygon.name)[0] for polygon in annotations.polygons}
    for name, kind in sorted(annotations.shapes):
        key, label = decisions.resolve(name)
        if label == MALIGNANT and key not in with_area:
            where = printable(str(annotations.path))
            raise InputError(
                f"{where}: the malignant class {escape_name(name)} has only a {kind}, which encloses no tissue. Draw a "
                f'polygon of that class, or leave the class out: --ignore "{escape_name(name)}".'
            )


def escape_name(name: str) -> str:
    """Return a class name with characters that cannot be printed escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


@lru_cache(8)
def _list_annotation_files(folder: Path, modified: int) -> dict[str, tuple[Path, ...]]:
    """Return the annotation files of a folder by their name without its suffix; several if only the suffix differs.

    Args:
        modified: Modification time of the folder, ns; only a key of the cache, so that a changed folder is listed
            again.
    """
    paths: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            stem = unicodedata.normalize("NFC", path.stem)
            paths[stem] = (*paths.get(stem, ()), path)
    return paths


def _possible_stems(slide_name: str) -> list[str]:
    """Return the names that an annotation file of a slide may have, without its suffix."""
    name = unicodedata.normalize("NFC", slide_name)
    return list(dict.fromkeys((name, Path(name).stem, strip_suffixes(name))))


def _iterate_features(node: Any) -> Iterator[dict]:
    """Yield the GeoJSON features in a decoded JSON value, which may be nested lists and collections.

    A geometry without a feature around it is yielded as a feature without properties.

    Raises:
        ValueError: If an object is neither a feature nor a geometry.
    """
    if isinstance(node, list):
        for item in node:
            yield from _iterate_features(item)
    elif "features" in node:
        yield from _iterate_features(node["features"])
    elif "geometry" in node or node.get("type") == "Feature":
        yield node
    elif node.get("type") in GEOMETRIES:
        yield {"geometry": node}
    else:
        raise ValueError(f"no feature: {str(node)[:80]}")


def _add_feature(annotations: AnnotationFile, feature: dict) -> AnnotationFile:
    """Return the annotations with one more feature; the lists and counters in `annotations` change in place."""
    properties = feature.get("properties") or {}
    if (object_type := _object_type(feature, properties)) in COMPUTED_TYPES:
        annotations.skipped[object_type] += 1
        return annotations
    plane = (feature.get("geometry") or {}).get("plane") or {}  # QuPath writes it if it is not the first one
    if plane.get("z") or plane.get("t"):
        annotations.skipped["on another plane than the first, which is read"] += 1
        return annotations
    geometries = list(_iterate_geometries(feature.get("geometry")))
    if not geometries:
        annotations.skipped["without a geometry"] += 1
        return annotations
    name = _class_name(properties)
    polygons = [_make_polygon(name, coordinates) for shape, coordinates in geometries if shape == "Polygon"]
    if not name:
        return annotations._replace(unclassified=annotations.unclassified + 1)
    annotations.polygons.extend(polygons)
    annotations.shapes.update((name, shape) for shape, _ in geometries if shape != "Polygon")
    return annotations


def _object_type(feature: dict, properties: dict) -> str:
    """Return the type of a QuPath object, such as cell; QuPath 0.2 has it in the id, as in PathCellObject."""
    text = str(properties.get("objectType") or properties.get("object_type") or feature.get("id") or "")
    return "".join(filter(str.isalpha, text.lower())).removeprefix("path").removesuffix("object")


def _class_name(properties: dict) -> str:
    """Return the class of an annotation, "" without one.

    QuPath writes a derived class such as `Tumor: Positive` as a list `names`: the base class, then what is derived.
    """
    classification = properties.get("classification") or {}
    if isinstance(classification, str):
        return classification.strip()
    names = classification.get("names") or classification.get("name") or ""
    return (names if isinstance(names, str) else ": ".join(map(str.strip, names))).strip()


def _iterate_geometries(geometry: dict | None) -> Iterator[tuple[str, Any]]:
    """Yield the type and coordinates of each part of a geometry; a multipolygon is several polygons.

    Args:
        geometry: A GeoJSON geometry, or a collection of them.

    Yields:
        "Polygon" and its rings, [[[x, y], ...], ...], pixels of the slide; or a type of SHAPES_WITHOUT_AREA and `None`.

    Raises:
        ValueError: If the geometry has another type.
    """
    if not geometry:
        return
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _iterate_geometries(part)
    elif kind in ("Polygon", "MultiPolygon"):
        coordinates = geometry["coordinates"]
        for polygon in [coordinates] if kind == "Polygon" else coordinates:
            if polygon:
                yield "Polygon", polygon
    elif kind in SHAPES_WITHOUT_AREA:
        yield kind, None
    else:
        raise ValueError(f"unknown geometry {kind!r}")


def _make_polygon(name: str, coordinates: list) -> Polygon:
    """Return a polygon of the class `name`, with its area: the outer ring less the holes, square pixels of the slide.

    Args:
        coordinates: Of a GeoJSON Polygon: the outer ring, then the holes; each a list of [x, y] or [x, y, z], in pixels
            of the slide.

    Raises:
        ValueError: If a ring has fewer than three points, or a coordinate is too large for a slide.
    """
    rings = [np.array([(x, y) for x, y, *_ in ring], float) for ring in coordinates]  # z is left out
    if not all(len(ring) > 2 for ring in rings):
        raise ValueError("a ring needs three points")
    if not all((np.abs(ring) < MAX_COORDINATE).all() for ring in rings):
        raise ValueError(f"a coordinate is {MAX_COORDINATE:,} pixels or more")
    outer, *holes = map(_ring_area, rings)
    return Polygon(name, rings, max(0.0, outer - sum(holes)))


def _ring_area(ring: np.ndarray) -> float:
    """Return the area inside a closed ring, float64 (points, 2), by the shoelace formula."""
    x, y = (ring - ring[0]).T  # near the origin, as large coordinates would lose digits in the products
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
