"""Colors, names, sizes and saving of the report's figures: the same thing has the same color in every figure."""

import base64
import io
import re
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from bcgan.classes import FIRST_CLASS_COLOR, LAST_CLASS_COLOR
from bcgan.classifiers import CLASSIFIERS

# Okabe and Ito's colors, which color-blind readers can distinguish, and more where those are too few. Blue and
# vermilion are for the classes only (`bcgan.classes`).
CLASSIFIER_COLORS = {name: spec.color for name, spec in CLASSIFIERS.items()} | {
    "color_texture_gbdt": "#7FBC41", "ensemble": "#8C510A", "ensemble_spatial_context": "#7A0177",
}  # fmt: skip
CLASSIFIER_NAMES = {name: spec.title for name, spec in CLASSIFIERS.items()} | {
    "color_texture_gbdt": "Colour and texture", "ensemble": "Ensemble",
    "ensemble_spatial_context": "Ensemble with neighbours",
}  # fmt: skip
SHORT_NAMES = {name: spec.short_title or spec.title for name, spec in CLASSIFIERS.items()} | {
    "color_texture_gbdt": "Colour, texture", "ensemble": "Ensemble", "ensemble_spatial_context": "With neighbours",
}  # fmt: skip
METRIC_NAMES = {
    "roc_auc": "ROC AUC", "pr_auc": "PR AUC", "balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy",
    "accuracy_at_accuracy_threshold": "Accuracy, threshold for accuracy",
    "sensitivity": "Sensitivity", "specificity": "Specificity", "f1": "F1", "brier": "Brier score",
    "brier_calibrated": "Brier score after scaling", "ece": "Calibration error",
    "ece_calibrated": "Calibration error after scaling", "loss": "Log loss",
    "patient_fraction_mae": "Mean absolute error of the malignant fraction",
    "patient_fraction_pearson": "Pearson correlation of the fractions",
    "image_roc_auc": "ROC AUC by image", "image_balanced_accuracy": "Balanced accuracy by image",
    "image_recognition_rate": "Image recognition rate", "patient_recognition_rate": "Patient recognition rate",
    "patient_roc_auc": "ROC AUC, any malignant patch or none",
}  # fmt: skip
ROLE_NAMES = {
    "train": "training", "validation": "validation", "test": "test", "unlisted": "unlisted",
    "validation_other": "validation, other source", "test_other": "test, other source",
    "unlisted_other": "unlisted, other source",
}  # fmt: skip
# What the name of a role does not say; captions and cautions define it where it first stands.
ROLE_DEFINITIONS = {"unlisted": "who are on no patient list"}
ARM_NAMES = {"real": "Real", "classic": "Real + classic", "gan": "+ GAN", "selected": "+ selected GAN"}
INK, MUTED = "#222222", "#777777"
REAL, SYNTHETIC = MUTED, "#9E7BB5"
DISCRIMINATOR = CLASSIFIER_COLORS["gan_only"]  # whose features are the discriminator's
# Colors that are hard to see on the dark page, and what takes their place there.
DARK_COLORS = {
    INK: "#e6e9ec", MUTED: "#a5b0ba", "#ffffff": "#15191d", "#000000": "#d5d9dd", FIRST_CLASS_COLOR: "#3f8fdc",
    LAST_CLASS_COLOR: "#ff8236", SYNTHETIC: "#c3a6dc", "#009E73": "#2cc99b", "#CC79A7": "#e39cc4",
    "#4D4D4D": "#b0b4b8", "#7A5195": "#b98fd6", "#332288": "#9d90f5", "#AA4499": "#de7fce", "#44AA99": "#5fd0bd",
    "#8C510A": "#b99a78", "#7A0177": "#e272dd", "#999999": "#a8adb2", "#882255": "#d76ba0", "#661100": "#d0785f",
    "#CC6677": "#e58a99",
}  # fmt: skip
ROLE_COLORS = {
    "train": "#6BA292", "validation": "#D9C77E", "test": "#B76E79", "unlisted": "#A9A9B0",
}  # fmt: skip
REPORT_COLORS = ("#1B9E77", "#D95F02", "#7570B3", "#E7298A", "#66A61E", "#E6AB02")  # of reports that are compared
DPI = 150  # of the PNG files
POINTS_PER_INCH = 72  # the unit of an SVG by matplotlib
NEUTRAL = "#E4E4E4"  # where a value is for neither side
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue (sRGB, linear)
MIN_TEXT_CONTRAST = 3.0  # of a class's color with white, as text
ROWS_OF_CLASSES = 8  # about as many rows of patches has a figure
# Limits of lossy compression, in gray levels: of the mean, and of the 0.999 quantile (edges of thin lines).
MAX_MEAN_PIXEL_ERROR = 3.0
MAX_PIXEL_ERROR = 40
# Matplotlib names clip paths by a hash of their coordinates, whose last digits differ between runs of the solver.
CLIP_IDS = re.compile(r'(id="|url\(#)(p[0-9a-f]{10})\b')
EMBEDDED_PNG = re.compile(r'"data:image/png;base64,([^"]+)"')

sns.set_theme(
    style="ticks",
    context="notebook",
    rc={
        "figure.dpi": 100, "savefig.dpi": DPI, "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED, "text.color": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9, "legend.frameon": False,
        "svg.hashsalt": "bcgan", "svg.fonttype": "none", "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans", "axes.titleweight": "bold", "axes.titlelocation": "left",
    },
)  # fmt: skip


def class_colormap(against: str, supporting: str) -> matplotlib.colors.Colormap:
    """Return the colormap from the color `against`, for evidence against a class, over gray to `supporting`."""
    return matplotlib.colors.LinearSegmentedColormap.from_list("classes", [against, NEUTRAL, supporting])


def text_color(color: str) -> str:
    """Return a color, darkened until text in it is legible on white."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    if _contrast_with_white(rgb) >= MIN_TEXT_CONTRAST:
        return color
    factors = np.linspace(1, 0, 101)
    return matplotlib.colors.to_hex(
        next(rgb * factor for factor in factors if _contrast_with_white(rgb * factor) >= MIN_TEXT_CONTRAST)
    )


def _contrast_with_white(rgb: np.ndarray) -> float:
    """Return the contrast ratio, as WCAG 2 defines it, of a color with white; `rgb` is in [0, 1], sRGB."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ LUMINANCE + 0.05)


def rows_per_class(num_classes: int, most: int) -> int:
    """Return how many rows of patches of each class a figure has: `most` of two classes, fewer of many."""
    return min(most, max(1, ROWS_OF_CLASSES // num_classes))


class ReportFigure(NamedTuple):
    """A figure, the numbers it shows, and a caption that stands alone."""

    figure: Figure
    numbers: pd.DataFrame
    title: str
    caption: str


class Frame(NamedTuple):
    """Where axes of a figure lie in its SVG, so that the page can draw into them."""

    left: float  # of the plot area, in the units of the SVG's viewBox
    top: float
    width: float
    height: float
    x: tuple[float, float]  # data limits, left and right
    y: tuple[float, float]  # bottom and top


def save(report_figure: ReportFigure, folder: Path, name: str) -> Frame:
    """Write figures/<name>.png and .svg and tables/<name>.csv; the same run gives the same SVG and CSV bytes.

    Returns:
        The frame of its first axes.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "tables").mkdir(exist_ok=True)
    png = io.BytesIO()
    report_figure.figure.savefig(png)
    _reduce_colors(Image.open(png).convert("RGB")).save(
        folder / "figures" / f"{name}.png", optimize=True, dpi=(DPI, DPI)
    )
    report_figure.figure.set_layout_engine("none")  # keep the layout of the PNG, which took time to solve
    svg_file = io.StringIO()
    report_figure.figure.savefig(svg_file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    ids: dict[str, str] = {}
    svg = CLIP_IDS.sub(lambda match: match[1] + ids.setdefault(match[2], f"clip{len(ids)}"), svg_file.getvalue())
    (folder / "figures" / f"{name}.svg").write_text(EMBEDDED_PNG.sub(_recompress_picture, svg), "utf-8")
    frame = _find_frame(report_figure.figure.axes[0])
    plt.close(report_figure.figure)
    report_figure.numbers.to_csv(folder / "tables" / f"{name}.csv", index=False, float_format="%.6g")
    return frame


def _find_frame(axes: plt.Axes) -> Frame:
    """Return where axes lie in the SVG of their figure, whose layout is solved; the SVG counts from the top."""
    size = axes.get_figure(root=True).get_size_inches()
    width, height = (POINTS_PER_INCH * inches for inches in size)
    box = axes.get_position()
    plot_area = box.x0 * width, (1 - box.y1) * height, box.width * width, box.height * height
    return Frame(*plot_area, axes.get_xlim(), axes.get_ylim())


def _reduce_colors(picture: Image.Image) -> Image.Image:
    """Return a picture in 256 colors, a third of the bytes, or the picture itself if the difference is visible."""
    kmeans_threshold = picture.width * picture.height // 10  # a lower one does not look better
    reduced = picture.quantize(256, kmeans=kmeans_threshold, dither=Image.Dither.NONE)
    errors = _pixel_errors(reduced, picture)
    is_similar = errors.mean() <= MAX_MEAN_PIXEL_ERROR and np.quantile(errors, 0.999) <= MAX_PIXEL_ERROR
    return reduced if is_similar else picture


def _pixel_errors(compressed: Image.Image, original: Image.Image) -> np.ndarray:
    """Return the absolute differences of RGB values, in gray levels, (height, width, 3); `original` is RGB."""
    return np.abs(np.asarray(compressed.convert("RGB"), np.int16) - np.asarray(original, np.int16))


def _recompress_picture(match: re.Match) -> str:
    """Return the data URI of a PNG in an SVG, as JPEG or in 256 colors if that is smaller and looks the same."""
    original = base64.b64decode(match[1])
    image = Image.open(io.BytesIO(original))
    if image.convert("RGBA").getextrema()[3][0] < 255:
        return match[0]
    rgb, jpeg, png = image.convert("RGB"), io.BytesIO(), io.BytesIO()
    rgb.save(jpeg, format="JPEG", quality=88, subsampling=0)
    _reduce_colors(rgb).save(png, format="PNG", optimize=True)
    candidates = [(png.getvalue(), "png"), (original, "png")]
    if _pixel_errors(Image.open(jpeg), rgb).mean() <= MAX_MEAN_PIXEL_ERROR:
        candidates.append((jpeg.getvalue(), "jpeg"))
    data, extension = min(candidates, key=lambda candidate: len(candidate[0]))
    return f'"data:image/{extension};base64,{base64.b64encode(data).decode()}"'


def difference_title(metric: str) -> str:
    """Return an axis label such as `Difference in balanced accuracy`."""
    name = METRIC_NAMES[metric]
    is_abbreviation = name[1].isupper() or name[1].isdigit()
    return f"Difference in {name if is_abbreviation else name[0].lower() + name[1:]}"


def format_signed(value: float) -> str:
    """Return a number with its sign, such as `+0.012`; `0.000` has none."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text


def blank_grid(num_rows: int, num_columns: int, figsize: tuple[float, float], **options) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, (num_rows, num_columns), which are blank until something is shown in them.

    Args:
        figsize: Width and height, inches.
        options: More arguments of `plt.subplots`.
    """
    figure, grid = plt.subplots(num_rows, num_columns, figsize=figsize, squeeze=False, **options)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def panel_grid(
    count: int, num_columns: int, width: float, row_height: float, margin: float = 0
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, (rows, num_columns), for `count` panels; those that are left over are hidden.

    Args:
        width, row_height: Of the figure, and of a row, inches.
        margin: Added to the height of the rows, inches. Defaults to 0.
    """
    num_rows = -(-count // num_columns)
    figure, grid = plt.subplots(num_rows, num_columns, figsize=(width, row_height * num_rows + margin), squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def draw_estimate(
    axes: plt.Axes, estimate: dict, y: float, color: str, lw: float = 2, ms: float | None = 5, **dot
) -> None:
    """Draw an estimate, {value, low, high}, as a dot on a line over its interval; what is `None` is left out.

    Args:
        y: Height of the line and the dot, in the data's units.
        lw, ms: Width of the line and size of the dot, points.
        dot: More arguments of `Axes.plot` for the dot.
    """
    if estimate["low"] is not None:
        axes.plot([estimate["low"], estimate["high"]], [y, y], color=color, lw=lw)
    if estimate["value"] is not None:
        axes.plot(estimate["value"], y, "o", ms=ms, color=color, **dot)


def show_patch(axes: plt.Axes, patch: np.ndarray, label: str = "", **options) -> None:
    """Draw a patch, uint8, (side, side, 3), or a map, (height, width), without ticks and frame, with a label below.

    `options` are those of `Axes.imshow`.
    """
    axes.set_axis_on()
    axes.imshow(patch, interpolation="none", **options)  # looks like "nearest", and the SVG stores the original pixels
    axes.set_xticks([])
    axes.set_yticks([])
    sns.despine(ax=axes, left=True, bottom=True)
    if label:
        axes.set_xlabel(label, fontsize=8, labelpad=2, parse_math=False)  # a patient's name may contain dollar signs


def set_group_title(axes, text: str, color: str) -> None:
    """Write a title over several patches, from the first one on, without widening its column."""
    axes.set_title(" ")  # reserves the height
    axes.annotate(
        text, (0, 1.06), xycoords="axes fraction", color=text_color(color), fontsize=11, fontweight="bold"
    ).set_in_layout(False)
