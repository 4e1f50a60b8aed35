"""`bcgan predict`: a probability, an uncertainty and a verdict for every patch of every image."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from bcgan import progress
from bcgan.data.records import CLASSES
from bcgan.errors import InputError
from bcgan.predict import slides
from bcgan.predict.images import Tiles, read
from bcgan.predict.model import VERDICTS, Judged, Model

COLUMNS = ("path", "x", "y", "probability", "uncertainty", "label", "verdict")
BATCH = 512  # patches scored together, of several files where they are small


def predict(
    model: Model,
    paths: list[Path],
    out: TextIO,
    lines: bool,
    microns_per_pixel: float | None = None,
    maps: Path | None = None,
    shown: bool = True,
) -> dict[str, int]:
    """Write a row a patch, in the order of `paths`; a file that cannot be read has a row that says so.

    Args:
        out: text file. CSV with a header, or JSON lines where `lines` is true.
        microns_per_pixel: float. Of the images; None: that of the model's patches.
        maps: Path. Folder for a heat map, an overlay and outlines of every image that is larger than a patch.
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
    return counts


def _rows(model: Model, paths: list[Path], microns: float | None, maps: Path | None, bar) -> Iterator[dict[str, Any]]:
    """Patches of several files wait until a batch is full; a large image is scored by itself, with its neighbours."""
    waiting: list[tuple[Path, np.ndarray | None]] = []
    scale = scale_of(model, microns)
    for path, name in zip(paths, _names(paths), strict=True):
        bar.update()
        try:
            if slides.is_slide(path):
                tiles = slides.read(path, model.card.size, model.card.microns_per_pixel, microns)
            else:
                tiles = read(path, model.card.size, scale)
        except (OSError, ValueError, InputError) as error:
            progress.log.warning("predict: %s", error)
            tiles = None
        if tiles is not None and not tiles.whole:
            yield from _small(model, waiting)
            waiting = []
            yield from _large(model, path, name, tiles, maps)
            continue
        waiting.append((path, None if tiles is None else tiles.patches[0]))
        if len(waiting) == BATCH:
            yield from _small(model, waiting)
            waiting = []
    yield from _small(model, waiting)


def _names(paths: list[Path]) -> list[str]:
    """What the files' maps are called: their names, numbered where several files in several folders have the same."""
    seen = Counter(path.name for path in paths)
    return [path.name if seen[path.name] == 1 else f"{number:04d}-{path.name}" for number, path in enumerate(paths)]


def _small(model: Model, waiting: list[tuple[Path, np.ndarray | None]]) -> Iterator[dict[str, Any]]:
    patches = [patch for _, patch in waiting if patch is not None]
    judged = zip(*model.predict(np.stack(patches)), strict=True) if patches else iter(())
    for path, patch in waiting:
        if patch is None:
            yield _unjudged(path, "unreadable")
        else:
            yield _row(path, (0, 0), *next(judged))


def _large(model: Model, path: Path, name: str, tiles: Tiles, maps: Path | None) -> Iterator[dict[str, Any]]:
    if not len(tiles.patches):
        progress.log.warning("predict: %s: no tissue found, every tile is empty glass", path)
        yield _unjudged(path, "out_of_distribution")
        return
    found = model.predict(tiles.patches, tiles.places)
    if maps:
        from bcgan.predict.maps import write_maps  # matplotlib, which rows alone do not need

        write_maps(maps, name, tiles, found, model.card)
    yield from rows_of(path, tiles, found)


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
