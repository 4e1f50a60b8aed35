"""`bcgan predict`: a probability, an uncertainty and a verdict for every patch of every image."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from scipy.spatial import cKDTree

from bcgan import progress
from bcgan.classify.context import REACH
from bcgan.data.records import CLASSES, place_of, printable
from bcgan.errors import InputError
from bcgan.predict import slides
from bcgan.predict.images import Tiles, mosaic, read
from bcgan.predict.model import VERDICTS, Judged, Model
from bcgan.predict.pieces import ALIKE, Piece, complete, lengths

COLUMNS = ("path", "x", "y", "probability", "uncertainty", "label", "verdict")
BATCH = 512  # patches scored together, of several files where they are small
LABELS = ("0", "1", *CLASSES)  # folders of a class, as the public archive has them
CROWDED = 4  # patches that overlap by more than 3 of so many parts of their side do not lie where their names say


def predict(
    model: Model,
    paths: list[Path],
    out: TextIO,
    lines: bool,
    microns_per_pixel: float | None = None,
    maps: Path | None = None,
    shown: bool = True,
) -> dict[str, int]:
    """Write a row a patch; a file that cannot be read has a row that says so.

    Rows are in the order of `paths`, but for patches of one slide, whose names say where they lie
    (`bcgan.data.records.place_of`): these stand together in the place of the first, and their neighbours have a say.

    Args:
        out: text file. CSV with a header, or JSON lines where `lines` is true.
        microns_per_pixel: float. Of the images; None: that of the model's patches.
        maps: Path. Folder for a heat map, an overlay and outlines of every image that is larger than a patch, and of
            the patches of every slide.
        shown: bool. Whether there is a progress bar.

    Returns:
        How many patches got each verdict.
    """
    writer = None if lines else csv.DictWriter(out, COLUMNS, lineterminator="\n")
    if writer:
        writer.writeheader()
    counts = dict.fromkeys(VERDICTS, 0)
    with progress.bar(len(paths), "predict", "image", shown=shown) as bar:
        for row in _rows(model, paths, microns_per_pixel, maps, bar):
            counts[row["verdict"]] += 1
            if writer:
                writer.writerow(row)
            else:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    if maps and not maps.exists():
        progress.log.warning(
            "predict: %s: no map: no image larger than a patch was judged, nor patches whose places are known", maps
        )
    return counts


def _rows(model: Model, paths: list[Path], microns: float | None, maps: Path | None, bar) -> Iterator[dict[str, Any]]:
    """Patches wait for the others of their slide, and where they are of none until a batch is full; a large image is
    scored by itself."""
    waiting: list[tuple[Path, Piece | None]] = []
    scale, sorted_out = scale_of(model, microns), _by_slide(paths)
    together = [slide for slide, *_ in sorted_out if slide]
    if together and model.card.context:
        progress.log.info(
            "predict: by their names %d of %d files are patches of %d slides, whose neighbours have a say",
            len(together), len(paths), len(set(together)),
        )  # fmt: skip
    assumed = microns is None and model.card.microns_per_pixel
    for name_of_slide, group in groupby(sorted_out, itemgetter(0)):
        files, slide, pieces, side = list(group), name_of_slide, {}, 0
        if slide:
            pieces, side = _completed(slide, [path for _, path, _ in files], scale, model.card.size)
            slide = slide if side else None
        for number, (_, path, name) in enumerate(files):
            tiles = None if number in pieces else _read(model, path, microns, scale)
            if tiles is None or tiles.whole:
                waiting.append((path, pieces.get(number, tiles and Piece(tiles.patches[0], tiles.patches[0]))))
                if slide is None and len(waiting) == BATCH:
                    yield from _small(model, waiting, slide, scale, side, maps, bar)
                continue
            if assumed and not slides.is_slide(path):
                progress.log.warning(
                    "predict: %s: no --mpp, taken for %s microns a pixel, as all others that do not say",
                    printable(str(path)), model.card.microns_per_pixel,
                )  # fmt: skip
                assumed = False
            if slide is None:
                yield from _small(model, waiting, slide, scale, side, maps, bar)
            yield from _large(model, path, name, tiles, maps)
            bar.update()
        yield from _small(model, waiting, slide, scale, side, maps, bar)


def _read(model: Model, path: Path, microns: float | None, scale: float) -> Tiles | None:
    """None, and why on the screen, where it cannot be read."""
    try:
        if slides.is_slide(path):
            return slides.read(path, model.card.size, model.card.microns_per_pixel, microns)
        return read(path, model.card.size, scale)
    except (OSError, ValueError, InputError) as error:
        progress.log.warning("predict: %s", error)
        return None


def _by_slide(paths: list[Path]) -> list[tuple[str | None, Path, str]]:
    """(slide, path, name) of every file: a slide's patches together, which lie in one folder or in one a class; slide
    None where there are no others of it."""
    found: dict[Any, list[tuple[Path, str]]] = {}
    for number, (path, name) in enumerate(zip(paths, _names([path.name for path in paths]), strict=True)):
        key: Any = number
        if place := place_of(path.stem):
            folder = path.parent.parent if path.parent.name.lower() in LABELS else path.parent
            key = place.slide, folder, place.finer
        found.setdefault(key, []).append((path, name))
    several = [key for key, files in found.items() if len(files) > 1]
    known = dict(zip(several, _names([key[0] for key in several]), strict=True))
    return [(known.get(key), *file) for key, files in found.items() for file in files]


def _names(names: list[str]) -> list[str]:
    """What maps are called: numbered where several files in several folders have one name."""
    seen = Counter(names)
    return [name if seen[name] == 1 else f"{number:04d}-{name}" for number, name in enumerate(names)]


def _small(
    model: Model, waiting: list[tuple[Path, Piece | None]], slide: str | None, scale: float, side: float,
    maps: Path | None, bar,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of what waits, after which nothing does; of one slide where that is named, in which each is a square of
    `side`."""
    read = [(path, piece) for path, piece in waiting if piece]
    judged = iter(())
    if read:
        places = None
        if slide and len(read) > 1:
            places = (np.array([place_of(path.stem)[:2] for path, _ in read]) / scale).round().astype(int)
        patches = np.stack([piece.patch for _, piece in read])
        found = model.predict(patches, places)
        if maps and places is not None:
            image, shown = mosaic([piece.tile for _, piece in read], places)
            own = scale * place_of(read[0][0].stem).finer  # what QuPath draws outlines in
            tiles = Tiles(patches, places, own, image, False, shown, side)
            _write_maps(maps, slide, tiles, found, model)
        judged = zip(*found, strict=True)
    for path, piece in waiting:
        yield _row(path, (0, 0), *next(judged)) if piece else _unjudged(path, "unreadable")
    bar.update(len(waiting))
    waiting.clear()


def _completed(slide: str, paths: list[Path], scale: float, size: int) -> tuple[dict[int, Piece], float]:
    """Those of a slide's files that others complete to a patch, by number, and the side of a file's square, pixels at
    the model's scale; 0 where the names cannot mean places."""
    longest = lengths(paths)
    side = min(size, np.median([length for length in longest if length] or [size * scale]) / scale)
    places = np.array([place_of(path.stem)[:2] for path in paths])
    apart = np.median(cKDTree(places).query(places, 2, p=np.inf)[0][:, 1])
    if not side / CROWDED <= apart / scale <= REACH[-1] * side:
        progress.log.warning(
            "predict: %s: by their names its patches lie %g pixels apart, and are %g wide; places are not used",
            printable(slide), apart, side * scale,
        )  # fmt: skip
        return {}, 0
    pieces, small, unlike = complete(paths, longest, scale, size)
    if unlike > ALIKE:
        progress.log.warning(
            "predict: %s: its patches overlap by their names, and do not look alike there; places are not used",
            printable(slide),
        )  # fmt: skip
        return {}, 0
    if small:
        log = progress.log.info if 2 * len(pieces) > small else progress.log.warning
        log(
            "predict: %s: %d of %d files are smaller than a patch, of which %d are judged with what others show around "
            "them; by their names they lie %g pixels apart, and are %g wide",
            printable(slide), small, len(paths), len(pieces), apart, side * scale,
        )  # fmt: skip
    return pieces, side


def _large(model: Model, path: Path, name: str, tiles: Tiles, maps: Path | None) -> Iterator[dict[str, Any]]:
    if not len(tiles.patches):
        progress.log.warning("predict: %s: no tissue found, every tile is empty glass", path)
        yield _unjudged(path, "out_of_distribution")
        return
    found = model.predict(tiles.patches, tiles.places)
    if maps:
        _write_maps(maps, name, tiles, found, model)
    yield from rows_of(path, tiles, found)


def _write_maps(folder: Path, name: str, tiles: Tiles, found: Judged, model: Model) -> None:
    from bcgan.predict.maps import write_maps  # matplotlib, which rows alone do not need

    write_maps(folder, name, tiles, found, model.card)


def rows_of(path: Path, tiles: Tiles, found: Judged) -> Iterator[dict[str, Any]]:
    """A row a patch of one image; x and y in the image's own pixels."""
    for place, *one in zip(places_of(tiles), *found, strict=True):
        yield _row(path, place, *one)


def places_of(tiles: Tiles) -> np.ndarray:
    """Where patches begin, x and y, in the image's own pixels; integers, (n, 2)."""
    return (tiles.places * tiles.scale).round().astype(int)


def scale_of(model: Model, microns_per_pixel: float | None) -> float:
    """How many pixels of an image of this resolution make one of the model's; 1 where one of the two is not known."""
    known = model.card.microns_per_pixel
    return known / microns_per_pixel if microns_per_pixel and known else 1.0


def _unjudged(path: Path, verdict: str) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | {"path": str(path), "x": 0, "y": 0, "verdict": verdict}


def _row(path: Path, place, probability: float, uncertainty: float, called: int, verdict: int) -> dict[str, Any]:
    known = VERDICTS[verdict] != "out_of_distribution"
    return {
        "path": str(path), "x": int(place[0]), "y": int(place[1]),
        "probability": round(float(probability), 6) if known else None,
        "uncertainty": round(float(uncertainty), 6) if known else None,
        "label": CLASSES[called] if VERDICTS[verdict] == "scored" else None, "verdict": VERDICTS[verdict],
    }  # fmt: skip
