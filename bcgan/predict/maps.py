"""Draw predictions: a heat map over the image, outlines for QuPath, and explanations of single patches."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from bcgan import machine, outputs, runs
from bcgan.classes import CLASS_COLORS, NOUNS, capitalize, class_colors, class_noun
from bcgan.predict.model import ABSTAINED, OUT_OF_DISTRIBUTION, SCORED, VERDICTS, Card, Model, Predictions
from bcgan.slides.files import printable
from bcgan.slides.patches import PatchGrid

MAX_PICTURE_PX = 1600  # longer side of a picture
METHOD_NAMES = {"grad_cam": "Grad-CAM", "integrated_gradients": "Integrated gradients", "occlusion": "Occlusion"}
PALE = "#F2F2F2"
COLOR_MAP = LinearSegmentedColormap.from_list(
    "benign to malignant", [CLASS_COLORS["benign"], PALE, CLASS_COLORS["malignant"]]
)
OPACITY = 0.45
MAX_NAME_BYTES = 240  # of 255 that a file's name may have, with the longest suffix
ABSTAIN_REASONS = ("too near the threshold", "no class is probable enough")  # of two classes, and of more
UNKNOWN_COLOR = (0.5, 0.5, 0.5)
STRIPES = ((0.15, 0.15, 0.15, 0.8), (1.0, 1.0, 1.0, 0.8))  # dark and light, to be visible on any tissue
HATCH = (0.15, 0.15, 0.15, 0.9)  # lines over the color of a patch without a label
SCALE_BARS = np.outer([1, 10, 100, 1000, 10000], [1, 2, 5]).ravel()  # lengths that a scale bar may have, microns


def write_maps(folder: Path, name: str, grid: PatchGrid, predictions: Predictions, card: Card) -> None:
    """Write three files into the folder: <name>.map.png, <name>.heat.png and <name>.geojson.

    The first is the heat map over the image, the second the heat map alone, the third outlines of the patches for
    QuPath. Of a name of more than MAX_NAME_BYTES the end is replaced by a hash.
    """
    outputs.make_folder(folder)
    encoded, file_name = os.fsencode(name), name
    if len(encoded) > MAX_NAME_BYTES:
        file_name = f"{encoded[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"
    runs.write_json(folder / f"{file_name}.geojson", to_geojson(grid, predictions, card))
    draw_map(folder / f"{file_name}.map.png", name, grid, predictions, card)
    draw_map(folder / f"{file_name}.heat.png", name, grid, predictions, card, tissue=False)


def describe_call(card: Card, called: int, verdict: int) -> str:
    """Return the predicted class, or the verdict, an index into VERDICTS, in words if there is none."""
    return card.classes[called] if verdict == SCORED else VERDICTS[verdict].replace("_", " ")


def draw_explanation(
    target: Path | BinaryIO, title: str, patch: np.ndarray, model: Model, predictions: Predictions
) -> None:
    """Draw a patch and its explanations as a PNG.

    The first panel has the prediction. One panel for each explanation method shows which pixels support a class: the
    second of two, or the most probable one of more.

    Args:
        target: File or buffer to write.
        patch: uint8, (size, size, 3).
        predictions: Of this patch alone, as a row of `bcgan predict` has them.
    """
    machine.prepare_environment(tensorflow=True)
    from bcgan.explain import saliency  # needs Keras, which a map does not

    probability, uncertainty, called, verdict, _, by_class = (values[0] for values in predictions)
    label, maps = explained_label(model, patch, by_class), {}
    network, prepared = saliency.explain_class(model.network, label), model.prepare(patch[None])
    for name, explain in saliency.METHODS.items():
        with contextlib.suppress(ValueError):  # Grad-CAM needs a network with feature maps
            maps[name] = explain(network, prepared.astype(np.float32) / 255)[0]
    figure = Figure(figsize=(2.6 * (1 + len(maps)), 3.4), layout="constrained")
    panels = figure.subplots(1, 1 + len(maps))
    panels[0].imshow(patch, interpolation="none")
    call = describe_call(model.card, called, verdict)
    has_score = verdict < OUT_OF_DISTRIBUTION
    numbers = f"\n{probability_name(model.card.classes, label)} {probability:.2f} ± {uncertainty:.2f}"
    panels[0].set_title(call + (numbers if has_score else ""), fontsize=9, loc="left")
    for axes, (name, saliency_map) in zip(panels[1:], maps.items(), strict=True):
        limit = np.abs(saliency_map).max() or 1.0
        axes.imshow(patch.mean(-1), cmap="gray", vmin=0, vmax=255)
        axes.imshow(saliency_map, cmap="PuOr_r", vmin=-limit, vmax=limit, alpha=0.65, interpolation="none")
        axes.set_title(f"{METHOD_NAMES[name]}\n{describe_test(model.card, name)}", fontsize=9, loc="left")
    for axes in panels:
        axes.set(xticks=[], yticks=[])
    figure.suptitle(printable(title), fontsize=10, x=0.01, ha="left", parse_math=False)
    panels[0].set_xlabel("Research use only", fontsize=8)
    panels[-1].set_xlabel(describe_colors(model.card, label), fontsize=8)
    figure.savefig(target, dpi=150, format="png")


def explained_label(model: Model, patch: np.ndarray, class_probabilities: np.ndarray) -> int:
    """Return the label of the class whose pixels are shown: the second of two, or the most probable one of more.

    Args:
        class_probabilities: (classes,). Those that `Model.predict` gave, NaN for a patch that it rejected.
    """
    if len(class_probabilities) == 2:
        return 1
    if np.isnan(class_probabilities).any():
        class_probabilities = model.probabilities(patch[None])[0]
    return int(class_probabilities.argmax())


def describe_colors(card: Card, label: int | None = None) -> str:
    """Return in words what the colors of the explanation of a class mean, or those of all patches."""
    nouns = [class_noun(name) for name in card.classes]
    if len(nouns) == 2:
        return f"orange supports {nouns[1]}, violet {nouns[0]}"
    noun = "the most probable class" if label is None else nouns[label]
    return f"orange supports {noun}, violet the other classes"


def describe_test(card: Card, method: str) -> str:
    """Return in words whether an explanation method passed its test, on the network that the card names."""
    passed = card.explanations.get(method)
    return {True: "passed its test", False: "failed its test", None: "not tested"}[passed]


def to_geojson(grid: PatchGrid, predictions: Predictions, card: Card) -> dict:
    """Return GeoJSON for QuPath: one square for each patch, in pixels of the file, with its class or verdict."""
    features, classes = [], card.classes
    colors = patch_colors(predictions, classes)
    steps = np.array([grid.scale.x, grid.scale.y])
    for corner, color, probability, uncertainty, called, verdict, _, by_class in zip(
        grid.coords, colors, *predictions, strict=True
    ):
        left, top = map(float, corner * steps)
        right, bottom = map(float, (corner + grid.tile_px) * steps)
        has_score = verdict < OUT_OF_DISTRIBUTION
        color = color if verdict == SCORED else UNKNOWN_COLOR
        if len(classes) == 2:
            measurements = {f"probability of {NOUNS.get(classes[1], classes[1])}": float(probability)}
        else:
            measurements = {
                f"probability of {name}": float(value) for name, value in zip(classes, by_class, strict=True)
            }
        if np.isfinite(uncertainty):  # one orientation has none
            measurements["uncertainty"] = float(uncertainty)
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append({
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "tile",
                "classification": {
                    "name": describe_call(card, called, verdict), "color": [round(255 * channel) for channel in color]
                },
                "measurements": measurements if has_score else {},
            },
        })  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


def probability_name(classes: tuple[str, ...], label: int = 1) -> str:
    """Return the name of the probability of a class, by default the second of two."""
    return f"probability of {class_noun(classes[label])}"


def patch_colors(predictions: Predictions, classes: tuple[str, ...]) -> list[tuple[float, float, float]]:
    """Return a color for each patch, RGB in [0, 1].

    With two classes it depends on the probability, and is pale at the threshold. With more it is that of the most
    probable class, the paler the less probable. Colors of patches without a probability have no meaning.
    """
    if len(classes) == 2:
        pairs = zip(predictions.probability, predictions.threshold, strict=True)
        return [COLOR_MAP(threshold_norm(threshold)(float(probability)))[:3] for probability, threshold in pairs]
    palette = np.array([to_rgb(color) for color in class_colors(classes).values()])
    labels = np.nan_to_num(predictions.class_probabilities).argmax(1)
    # The most probable of n classes has at least 1 / n; a patch with that probability is pale.
    chance = 1 / len(classes)
    strength = np.clip((np.nan_to_num(predictions.probability) - chance) / (1 - chance), 0, 1)[:, None]
    return list(map(tuple, strength * palette[labels] + (1 - strength) * np.array(to_rgb(PALE))))


def draw_map(
    target: Path | BinaryIO, title: str, grid: PatchGrid, predictions: Predictions, card: Card, tissue: bool = True
) -> None:
    """Draw the probabilities of an image's patches as a PNG, with a scale bar where the scale is known.

    Args:
        target: File or buffer to write.
        tissue: Whether the image is drawn below the probabilities, which are opaque without it. Defaults to True.
    """
    zoom = min(1.0, MAX_PICTURE_PX / max(grid.thumbnail.shape[:2]))
    height, width = (max(1, round(side * zoom)) for side in grid.thumbnail.shape[:2])
    image = cv2.resize(grid.thumbnail, (width, height), interpolation=cv2.INTER_AREA)
    figure = Figure(figsize=(9, 9 * height / width * 0.85 + 0.9), layout="constrained")
    axes = figure.subplots()
    if tissue:
        axes.imshow(image)
    colors = patch_colors(predictions, card.classes)
    axes.imshow(heatmap_overlay(grid, predictions, colors, zoom, (height, width), OPACITY if tissue else 1.0))
    axes.set(xticks=[], yticks=[])
    axes.set_title(printable(title), loc="left", fontsize=10, parse_math=False)
    if len(card.classes) == 2:
        threshold = float(np.median(predictions.threshold)) if len(predictions.threshold) else card.thresholds.limits[1]
        bar = figure.colorbar(ScalarMappable(threshold_norm(threshold), COLOR_MAP), ax=axes, shrink=0.6, aspect=30)
        lines = np.unique(predictions.threshold) if len(predictions.threshold) else [threshold]
        label = "line: the threshold" if len(lines) == 1 else "lines: the thresholds with and without neighbors"
        bar.set_label(f"{capitalize(probability_name(card.classes))}; {label}", fontsize=8)
        for line in lines:
            bar.ax.axhline(line, color="black", lw=1)
    _draw_legend(figure, predictions, card.classes)
    if card.microns_per_pixel:
        _draw_scale_bar(axes, width, height, card.microns_per_pixel / grid.thumbnail_scale / zoom)
    axes.set_xlabel("Research use only", fontsize=8)
    figure.savefig(target, dpi=150, format="png")


def _draw_scale_bar(axes: Axes, width: int, height: int, mpp: float) -> None:
    """Draw a scale bar of at most a quarter of the picture's width, except if no length is short enough.

    Args:
        width, height: Of the picture, pixels.
        mpp: Microns per pixel of the picture.
    """
    length = SCALE_BARS[max(0, np.searchsorted(SCALE_BARS, width * mpp / 4) - 1)]
    white_edge = {"path_effects": [withStroke(linewidth=6, foreground="white")]}  # visible on dark tissue too
    axes.plot([0.03 * width, 0.03 * width + length / mpp], [0.97 * height] * 2, color="black", lw=4, **white_edge)
    white_edge = {"path_effects": [withStroke(linewidth=2, foreground="white")]}
    axes.text(0.03 * width, 0.955 * height, f"{length:,} µm", va="bottom", fontsize=9, **white_edge)


def _draw_legend(figure: Figure, predictions: Predictions, classes: tuple[str, ...]) -> None:
    """Draw a legend of the classes, if there are more than two, and of hatched and striped squares, if any."""
    entries = []
    if len(classes) > 2:
        entries += [(Patch(facecolor=color, lw=0), name) for name, color in class_colors(classes).items()]
    if (predictions.verdict == ABSTAINED).any():
        patch = Patch(facecolor=PALE, edgecolor=HATCH, hatch="\\\\\\\\", lw=0)
        entries.append((patch, f"No call: {ABSTAIN_REASONS[len(classes) > 2]}"))
    if (predictions.verdict >= OUT_OF_DISTRIBUTION).any():
        patch = Patch(facecolor="white", edgecolor=STRIPES[0], hatch="//////", lw=0)
        entries.append((patch, "No probability: unlike the patches that the model knows, or no tissue"))
    if entries:
        figure.legend(*zip(*entries, strict=True), loc="outside lower right", fontsize=8, frameon=False)


def threshold_norm(threshold: float) -> TwoSlopeNorm:
    """Return the norm that maps probabilities to the color map, whose pale middle is at the threshold."""
    return TwoSlopeNorm(np.clip(threshold, 0.01, 0.99), 0, 1)


def heatmap_overlay(
    grid: PatchGrid,
    predictions: Predictions,
    colors: list[tuple[float, float, float]],
    zoom: float,
    shape: tuple[int, int],
    opacity: float,
) -> np.ndarray:
    """Draw every patch as a square in its color.

    Squares are hatched if the verdict is `abstained`, and striped if there is no probability.

    Args:
        colors: Of the patches, RGB in [0, 1].
        zoom: Pixels of this picture for one of the thumbnail's.
        shape: (height, width) of this picture.
        opacity: Of the colors, in [0, 1].

    Returns:
        RGBA, float in [0, 1], (*shape, 4); transparent where there is no patch.
    """
    picture, step = np.zeros((*shape, 4)), grid.thumbnail_scale * zoom
    width = max(2, round(grid.tile_px * step / 8))  # of a stripe, an eighth of a patch's side
    rows, columns = np.indices(shape)
    stripes = np.array(STRIPES)[(rows + columns) // width % 2]
    hatch = (rows - columns) % (2 * width) < max(1, width // 2)
    for corner, color, verdict in zip(grid.coords, colors, predictions.verdict, strict=True):
        left, top = (corner * step).round().astype(int)
        right, bottom = ((corner + grid.tile_px) * step).round().astype(int)
        window = slice(top, bottom), slice(left, right)
        if verdict >= OUT_OF_DISTRIBUTION:
            picture[window] = stripes[window]
            continue
        picture[window] = (*color, opacity)
        if verdict == ABSTAINED:
            picture[window][hatch[window]] = HATCH
    return picture
