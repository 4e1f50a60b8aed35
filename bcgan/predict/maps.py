"""Pictures of a prediction: a heat map over the image, outlines that QuPath opens, and where the evidence lies."""

import contextlib
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from bcgan import machine, runs
from bcgan.data.records import printable
from bcgan.predict.images import Tiles
from bcgan.predict.model import VERDICTS, Card, Judged, Model

BROADEST = 1600  # pixels of the picture's longer side
NAMES = {"grad_cam": "Grad-CAM", "integrated_gradients": "Integrated gradients", "occlusion": "Occlusion"}
COLOURS = LinearSegmentedColormap.from_list("benign to malignant", ["#0072B2", "#F2F2F2", "#D55E00"])
OPACITY = 0.45
UNKNOWN = (0.5, 0.5, 0.5)
STRIPES = ((0.15, 0.15, 0.15, 0.8), (1.0, 1.0, 1.0, 0.8))  # dark and light, so that any tissue shows them
ROUND = np.outer([1, 10, 100, 1000, 10000], [1, 2, 5]).ravel()  # lengths that a scale bar may have, microns


def write_maps(folder: Path, name: str, tiles: Tiles, found: Judged, card: Card) -> None:
    """Write <name>.map.png, over the image, <name>.heat.png, the map alone, and <name>.geojson into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / f"{name}.geojson", outlines(tiles, found, card))
    draw_map(folder / f"{name}.map.png", name, tiles, found, card)
    draw_map(folder / f"{name}.heat.png", name, tiles, found, card, tissue=False)


def draw_explanation(target: Path | BinaryIO, title: str, patch: np.ndarray, model: Model) -> None:
    """A PNG of a patch, where the evidence for its call lies by each method, and the call itself."""
    machine.prepare_environment(tensorflow=True)
    from bcgan.explain import saliency  # needs Keras, which a map does not

    probability, uncertainty, called, verdict = (one[0] for one in model.predict(patch[None]))
    maps = {}
    for name, explain in saliency.METHODS.items():
        with contextlib.suppress(ValueError):  # a network without maps has no Grad-CAM
            maps[name] = explain(model.network, patch[None].astype(np.float32) / 255)[0]
    figure = Figure(figsize=(2.6 * (1 + len(maps)), 3.2), layout="constrained")
    row = figure.subplots(1, 1 + len(maps))
    row[0].imshow(patch, interpolation="none")
    call = model.card.classes[called] if VERDICTS[verdict] == "scored" else VERDICTS[verdict].replace("_", " ")
    known = VERDICTS[verdict] != "out_of_distribution"
    row[0].set_title(f"{call}: {probability:.2f} ± {uncertainty:.2f}" if known else call, fontsize=10, loc="left")
    for axes, (name, one) in zip(row[1:], maps.items(), strict=True):
        limit = np.abs(one).max() or 1.0
        axes.imshow(patch.mean(-1), cmap="gray", vmin=0, vmax=255)
        axes.imshow(one, cmap="PuOr_r", vmin=-limit, vmax=limit, alpha=0.65, interpolation="none")
        axes.set_title(NAMES[name], fontsize=10, loc="left")
    for axes in row:
        axes.set(xticks=[], yticks=[])
    figure.suptitle(printable(title), fontsize=10, x=0.01, ha="left", parse_math=False)
    row[0].set_xlabel("Research use only", fontsize=8)
    row[-1].set_xlabel("orange speaks for malignancy, violet against", fontsize=8)
    figure.savefig(target, dpi=150, format="png")


def outlines(tiles: Tiles, found: Judged, card: Card) -> dict:
    """A square a patch, in the file's pixels, as GeoJSON; its class is the call, or the reason that there is none."""
    features, colours = [], turning(card)
    for place, probability, uncertainty, called, verdict in zip(tiles.places, *found, strict=True):
        left, top = (float(side) for side in place * tiles.scale)
        right, bottom = (corner + tiles.side * tiles.scale for corner in (left, top))
        name = card.classes[called] if VERDICTS[verdict] == "scored" else VERDICTS[verdict].replace("_", " ")
        known = VERDICTS[verdict] != "out_of_distribution"
        colour = COLOURS(colours(float(probability)))[:3] if known else UNKNOWN
        measured = {"probability of malignancy": float(probability), "uncertainty": float(uncertainty)}
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append({
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "tile",
                "classification": {"name": name, "color": [round(255 * part) for part in colour]},
                "measurements": measured if colour is not UNKNOWN else {},
            },
        })  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


def draw_map(target: Path | BinaryIO, title: str, tiles: Tiles, found: Judged, card: Card, tissue: bool = True) -> None:
    """A PNG of the probabilities of an image's patches, with a scale bar where the scale is known.

    Args:
        tissue: bool. Whether the image is seen below them. Defaults to True.
    """
    shrunk = min(1.0, BROADEST / max(tiles.image.shape[:2]))
    height, width = (max(1, round(side * shrunk)) for side in tiles.image.shape[:2])
    image = cv2.resize(tiles.image, (width, height), interpolation=cv2.INTER_AREA)
    figure = Figure(figsize=(9, 9 * height / width * 0.85 + 0.9), layout="constrained")
    axes = figure.subplots()
    if tissue:
        axes.imshow(image)
    axes.imshow(squares(tiles, found, card, shrunk, (height, width), OPACITY if tissue else 1.0))
    axes.set(xticks=[], yticks=[])
    axes.set_title(printable(title), loc="left", fontsize=10, parse_math=False)
    bar = figure.colorbar(ScalarMappable(turning(card), COLOURS), ax=axes, shrink=0.6, aspect=30)
    bar.set_label("Probability of malignancy; line: the threshold", fontsize=8)
    bar.ax.axhline((card.context_calls or card.calls).threshold, color="black", lw=1)
    if any(VERDICTS[verdict] == "out_of_distribution" for verdict in found.verdict):
        striped = Patch(facecolor="white", edgecolor=STRIPES[0], hatch="//////", lw=0)
        figure.legend([striped], ["No probability: unlike the patches that the model knows"],
                      loc="outside lower right", fontsize=8, frameon=False)  # fmt: skip
    if card.microns_per_pixel:
        microns = card.microns_per_pixel / tiles.shown / shrunk  # of a pixel of this picture
        length = ROUND[max(0, np.searchsorted(ROUND, width * microns / 4) - 1)]
        edge = {"path_effects": [withStroke(linewidth=6, foreground="white")]}  # seen on dark tissue too
        axes.plot([0.03 * width, 0.03 * width + length / microns], [0.97 * height] * 2, color="black", lw=4, **edge)
        edge = {"path_effects": [withStroke(linewidth=2, foreground="white")]}
        axes.text(0.03 * width, 0.955 * height, f"{length:,} µm", va="bottom", fontsize=9, **edge)
    axes.set_xlabel("Research use only", fontsize=8)
    figure.savefig(target, dpi=150, format="png")


def turning(card: Card) -> TwoSlopeNorm:
    """Probabilities to colours: pale at the threshold, above which a patch is called malignant."""
    return TwoSlopeNorm(np.clip((card.context_calls or card.calls).threshold, 0.01, 0.99), 0, 1)


def squares(
    tiles: Tiles, found: Judged, card: Card, shrunk: float, shape: tuple[int, int], opacity: float
) -> np.ndarray:
    """Every patch as a square in the colour of its probability, striped where it has none; float, (*shape, 4).

    Args:
        shrunk: float. Pixels of this picture for each of `tiles.image`.
        shape: (height, width) of this picture.
    """
    over, colours = np.zeros((*shape, 4)), turning(card)
    stripes = np.array(STRIPES)[np.indices(shape).sum(0) // max(2, round(tiles.side * tiles.shown * shrunk / 8)) % 2]
    for place, probability, verdict in zip(tiles.places, found.probability, found.verdict, strict=True):
        left, top = (place * tiles.shown * shrunk).round().astype(int)
        right, bottom = ((place + tiles.side) * tiles.shown * shrunk).round().astype(int)
        where = slice(top, bottom), slice(left, right)
        known = VERDICTS[verdict] != "out_of_distribution"
        over[where] = (*COLOURS(colours(float(probability)))[:3], opacity) if known else stripes[where]
    return over
