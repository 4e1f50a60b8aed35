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
from bcgan.predict.model import ABSTAINED, OUT_OF_DISTRIBUTION, SCORED, VERDICTS, Card, Model, Predictions
from bcgan.slides.files import printable
from bcgan.slides.patches import PatchGrid

MAX_PICTURE_PX = 1600  # of the picture's longer side
NAMES = {"grad_cam": "Grad-CAM", "integrated_gradients": "Integrated gradients", "occlusion": "Occlusion"}
COLOURS = LinearSegmentedColormap.from_list("benign to malignant", ["#0072B2", "#F2F2F2", "#D55E00"])
OPACITY = 0.45
UNKNOWN = (0.5, 0.5, 0.5)
STRIPES = ((0.15, 0.15, 0.15, 0.8), (1.0, 1.0, 1.0, 0.8))  # dark and light, so that any tissue shows them
HATCH = (0.15, 0.15, 0.15, 0.9)  # lines over the colour of a patch without a call
SCALE_BARS = np.outer([1, 10, 100, 1000, 10000], [1, 2, 5]).ravel()  # lengths that a scale bar may have, microns


def write_maps(folder: Path, name: str, grid: PatchGrid, predictions: Predictions, card: Card) -> None:
    """Write <name>.map.png, over the image, <name>.heat.png, the map alone, and <name>.geojson into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / f"{name}.geojson", to_geojson(grid, predictions, card))
    draw_map(folder / f"{name}.map.png", name, grid, predictions, card)
    draw_map(folder / f"{name}.heat.png", name, grid, predictions, card, tissue=False)


def describe_call(card: Card, called: int, verdict: int) -> str:
    """The class, or why there is none."""
    return card.classes[called] if verdict == SCORED else VERDICTS[verdict].replace("_", " ")


def draw_explanation(target: Path | BinaryIO, title: str, patch: np.ndarray, model: Model) -> None:
    """Draw a patch, its call, and by each method which pixels support it, as a PNG."""
    machine.prepare_environment(tensorflow=True)
    from bcgan.explain import saliency  # needs Keras, which a map does not

    probability, uncertainty, called, verdict, _ = (values[0] for values in model.predict(patch[None]))
    maps = {}
    for name, explain in saliency.METHODS.items():
        with contextlib.suppress(ValueError):  # a network without maps has no Grad-CAM
            maps[name] = explain(model.network, patch[None].astype(np.float32) / 255)[0]
    figure = Figure(figsize=(2.6 * (1 + len(maps)), 3.4), layout="constrained")
    row = figure.subplots(1, 1 + len(maps))
    row[0].imshow(patch, interpolation="none")
    call = describe_call(model.card, called, verdict)
    has_score = verdict < OUT_OF_DISTRIBUTION
    row[0].set_title(f"{call}: {probability:.2f} ± {uncertainty:.2f}" if has_score else call, fontsize=10, loc="left")
    for axes, (name, values) in zip(row[1:], maps.items(), strict=True):
        limit = np.abs(values).max() or 1.0
        axes.imshow(patch.mean(-1), cmap="gray", vmin=0, vmax=255)
        axes.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, alpha=0.65, interpolation="none")
        axes.set_title(f"{NAMES[name]}\n{describe_test(model.card, name)}", fontsize=9, loc="left")
    for axes in row:
        axes.set(xticks=[], yticks=[])
    figure.suptitle(printable(title), fontsize=10, x=0.01, ha="left", parse_math=False)
    row[0].set_xlabel("Research use only", fontsize=8)
    row[-1].set_xlabel("orange supports malignancy, violet benignity", fontsize=8)
    figure.savefig(target, dpi=150, format="png")


def describe_test(card: Card, method: str) -> str:
    """Return whether an explanation method passed its test, on the network that the card names."""
    passed = card.explanations.get(method)
    return {True: "passed its test", False: "failed its test", None: "not tested"}[passed]


def to_geojson(grid: PatchGrid, predictions: Predictions, card: Card) -> dict:
    """A square a patch, in the file's pixels, as GeoJSON; its class is the call, or the reason that there is none."""
    features = []
    steps = np.array([grid.scale.x, grid.scale.y])
    for place, probability, uncertainty, called, verdict, threshold in zip(grid.coords, *predictions, strict=True):
        left, top = (float(side) for side in place * steps)
        right, bottom = (float(side) for side in (place + grid.tile_px) * steps)
        has_score = verdict < OUT_OF_DISTRIBUTION
        colour = COLOURS(threshold_norm(threshold)(float(probability)))[:3] if verdict == SCORED else UNKNOWN
        measurements = {"probability of malignancy": float(probability), "uncertainty": float(uncertainty)}
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append({
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "tile",
                "classification": {
                    "name": describe_call(card, called, verdict), "color": [round(255 * part) for part in colour]
                },
                "measurements": measurements if has_score else {},
            },
        })  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


def draw_map(
    target: Path | BinaryIO, title: str, grid: PatchGrid, predictions: Predictions, card: Card, tissue: bool = True
) -> None:
    """Draw the probabilities of an image's patches as a PNG, with a scale bar where the scale is known.

    Args:
        tissue: bool. Whether the image is seen below them. Defaults to True.
    """
    zoom = min(1.0, MAX_PICTURE_PX / max(grid.thumbnail.shape[:2]))
    height, width = (max(1, round(side * zoom)) for side in grid.thumbnail.shape[:2])
    image = cv2.resize(grid.thumbnail, (width, height), interpolation=cv2.INTER_AREA)
    figure = Figure(figsize=(9, 9 * height / width * 0.85 + 0.9), layout="constrained")
    axes = figure.subplots()
    if tissue:
        axes.imshow(image)
    axes.imshow(overlay(grid, predictions, zoom, (height, width), OPACITY if tissue else 1.0))
    axes.set(xticks=[], yticks=[])
    axes.set_title(printable(title), loc="left", fontsize=10, parse_math=False)
    threshold = float(np.median(predictions.threshold)) if len(predictions.threshold) else card.thresholds.malignant
    bar = figure.colorbar(ScalarMappable(threshold_norm(threshold), COLOURS), ax=axes, shrink=0.6, aspect=30)
    bar.set_label("Probability of malignancy; line: the threshold", fontsize=8)
    bar.ax.axhline(threshold, color="black", lw=1)
    _draw_legend(figure, predictions)
    if card.microns_per_pixel:
        microns = card.microns_per_pixel / grid.thumbnail_scale / zoom  # of a pixel of this picture
        length = SCALE_BARS[max(0, np.searchsorted(SCALE_BARS, width * microns / 4) - 1)]
        edge = {"path_effects": [withStroke(linewidth=6, foreground="white")]}  # seen on dark tissue too
        axes.plot([0.03 * width, 0.03 * width + length / microns], [0.97 * height] * 2, color="black", lw=4, **edge)
        edge = {"path_effects": [withStroke(linewidth=2, foreground="white")]}
        axes.text(0.03 * width, 0.955 * height, f"{length:,} µm", va="bottom", fontsize=9, **edge)
    axes.set_xlabel("Research use only", fontsize=8)
    figure.savefig(target, dpi=150, format="png")


def _draw_legend(figure: Figure, predictions: Predictions) -> None:
    """What hatched and striped squares mean, where there are any."""
    entries = []
    if (predictions.verdict == ABSTAINED).any():
        patch = Patch(facecolor="#F2F2F2", edgecolor=HATCH, hatch="\\\\\\\\", lw=0)
        entries.append((patch, "No call: too near the threshold"))
    if (predictions.verdict >= OUT_OF_DISTRIBUTION).any():
        patch = Patch(facecolor="white", edgecolor=STRIPES[0], hatch="//////", lw=0)
        entries.append((patch, "No probability: unlike the patches that the model knows, or no tissue"))
    if entries:
        figure.legend(*zip(*entries, strict=True), loc="outside lower right", fontsize=8, frameon=False)


def threshold_norm(threshold: float) -> TwoSlopeNorm:
    """Map probabilities to colours: pale at the threshold, above which a patch is called malignant."""
    return TwoSlopeNorm(np.clip(threshold, 0.01, 0.99), 0, 1)


def overlay(
    grid: PatchGrid, predictions: Predictions, zoom: float, shape: tuple[int, int], opacity: float
) -> np.ndarray:
    """Draw every patch as a square: in the colour of its probability, with lines over it where there is no call, and
    striped where there is no probability.

    Args:
        zoom: float. Pixels of this picture for each of the thumbnail's.
        shape: (height, width) of this picture.

    Returns:
        float, (*shape, 4).
    """
    picture, step = np.zeros((*shape, 4)), grid.thumbnail_scale * zoom
    width = max(2, round(grid.tile_px * step / 8))
    rows, columns = np.indices(shape)
    stripes = np.array(STRIPES)[(rows + columns) // width % 2]
    hatch = (rows - columns) % (2 * width) < max(1, width // 2)
    for place, probability, verdict, threshold in zip(
        grid.coords, predictions.probability, predictions.verdict, predictions.threshold, strict=True
    ):
        left, top = (place * step).round().astype(int)
        right, bottom = ((place + grid.tile_px) * step).round().astype(int)
        window = slice(top, bottom), slice(left, right)
        if verdict >= OUT_OF_DISTRIBUTION:
            picture[window] = stripes[window]
            continue
        picture[window] = (*COLOURS(threshold_norm(threshold)(float(probability)))[:3], opacity)
        if verdict == ABSTAINED:
            picture[window][hatch[window]] = HATCH
    return picture
