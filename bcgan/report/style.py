"""One palette, one look, one way to save: the same thing has the same colour in every figure."""

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

from bcgan.classifiers import CLASSIFIERS

# Okabe and Ito's colours, which colour-blind readers can tell apart, and others where those are too few: blue and
# vermilion are the classes', here and nowhere else.
CLASS_COLOURS = {"benign": "#0072B2", "malignant": "#D55E00"}
CLASSIFIER_COLOURS = {name: spec.color for name, spec in CLASSIFIERS.items()} | {
    "color_texture_gbdt": "#7FBC41", "ensemble": "#8C510A", "ensemble_spatial_context": "#7A0177",
}  # fmt: skip
CLASSIFIER_NAMES = {name: spec.title for name, spec in CLASSIFIERS.items()} | {
    "color_texture_gbdt": "Colour and texture", "ensemble": "Ensemble",
    "ensemble_spatial_context": "With spatial context",
}  # fmt: skip
METRIC_NAMES = {
    "roc_auc": "ROC AUC", "pr_auc": "PR AUC", "balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy",
    "sensitivity": "Sensitivity", "specificity": "Specificity", "f1": "F1", "brier": "Brier score",
    "brier_calibrated": "Brier score after scaling", "ece": "Calibration error",
    "ece_calibrated": "Calibration error after scaling", "loss": "Log loss",
    "patient_fraction_mae": "Mean absolute error of the malignant fraction",
    "patient_fraction_pearson": "Pearson correlation of the fractions",
    "patient_roc_auc": "ROC AUC, any malignant patch or none",
}  # fmt: skip
ROLE_NAMES = {
    "train": "training", "validation": "validation", "test": "test", "unlisted": "unlisted",
    "validation_other": "validation, other source", "test_other": "test, other source",
    "unlisted_other": "unlisted, other source",
}  # fmt: skip
ARM_NAMES = {
    "real": "Real", "classic": "Real + classic", "gan": "+ GAN", "selected": "+ selected GAN",
    "translation": "+ translation",
}  # fmt: skip
INK, MUTED = "#222222", "#777777"
REAL, SYNTHETIC, TRANSLATED = MUTED, "#9E7BB5", "#CC6677"
DISCRIMINATOR = CLASSIFIER_COLOURS["gan_only"]  # what that classifier sees with
DPI = 200
TOWARDS = matplotlib.colors.LinearSegmentedColormap.from_list(  # of what supports one class or the other
    "classes", [CLASS_COLOURS["benign"], "#E4E4E4", CLASS_COLOURS["malignant"]]
)
HARDLY = 3.0  # grey levels, on average, that a picture may be off
UNSEEN = 40  # grey levels that one pixel in a thousand may be off, at the edge of a thin line
# Matplotlib names clips by a hash of their place to the last digit, where the layout's solver is not always the same.
CLIPS = re.compile(r'(id="|url\(#)(p[0-9a-f]{10})\b')
EMBEDDED = re.compile(r'"data:image/png;base64,([^"]+)"')

sns.set_theme(
    style="ticks",
    context="notebook",
    rc={
        "figure.dpi": 100, "savefig.dpi": DPI, "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED, "text.color": INK,
        "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9, "legend.frameon": False,
        "svg.hashsalt": "bcgan", "svg.fonttype": "none", "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans", "axes.titleweight": "bold", "axes.titlelocation": "left",
    },
)  # fmt: skip


class Drawn(NamedTuple):
    """A figure, the numbers it shows, and a caption that stands alone."""

    figure: Figure
    numbers: pd.DataFrame
    title: str
    caption: str


def save(drawn: Drawn, folder: Path, name: str) -> None:
    """Write figures/<name>.png and .svg and tables/<name>.csv; the same run gives the same SVG and CSV bytes."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "tables").mkdir(exist_ok=True)
    picture = io.BytesIO()
    drawn.figure.savefig(picture)
    _few_colours(Image.open(picture).convert("RGB")).save(
        folder / "figures" / f"{name}.png", optimize=True, dpi=(DPI, DPI)
    )
    drawn.figure.set_layout_engine("none")  # it is laid out: once is enough for both
    drawing = io.StringIO()
    drawn.figure.savefig(drawing, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    ids: dict[str, str] = {}
    svg = CLIPS.sub(lambda match: match[1] + ids.setdefault(match[2], f"clip{len(ids)}"), drawing.getvalue())
    (folder / "figures" / f"{name}.svg").write_text(EMBEDDED.sub(_smaller, svg), "utf-8")
    plt.close(drawn.figure)
    drawn.numbers.to_csv(folder / "tables" / f"{name}.csv", index=False, float_format="%.6g")


def _few_colours(picture: Image.Image) -> Image.Image:
    """In 256 colours, which take a third of the bytes, where that is hardly to be seen: tissue has few hues."""
    moving_pixels = picture.width * picture.height // 10  # waiting until fewer move does not look better
    fewer = picture.quantize(256, kmeans=moving_pixels, dither=Image.Dither.NONE)
    off = _off(fewer, picture)
    return fewer if off.mean() <= HARDLY and np.quantile(off, 0.999) <= UNSEEN else picture


def _off(first: Image.Image, second: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(first.convert("RGB"), np.int16) - np.asarray(second, np.int16))


def _smaller(match: re.Match) -> str:
    """A picture inside an SVG as JPEG or in few colours, where that is smaller and hardly to be seen."""
    original = base64.b64decode(match[1])
    image = Image.open(io.BytesIO(original))
    if image.convert("RGBA").getextrema()[3][0] < 255:
        return match[0]
    colours, jpeg, png = image.convert("RGB"), io.BytesIO(), io.BytesIO()
    colours.save(jpeg, format="JPEG", quality=88, subsampling=0)
    _few_colours(colours).save(png, format="PNG", optimize=True)
    candidates = [(png.getvalue(), "png"), (original, "png")]
    if _off(Image.open(jpeg), colours).mean() <= HARDLY:
        candidates.append((jpeg.getvalue(), "jpeg"))
    data, kind = min(candidates, key=lambda candidate: len(candidate[0]))
    return f'"data:image/{kind};base64,{base64.b64encode(data).decode()}"'


def difference_in(metric: str) -> str:
    """`Difference in balanced accuracy`."""
    name = METRIC_NAMES[metric]
    return f"Difference in {name if name[1].isupper() or name[1].isdigit() else name[0].lower() + name[1:]}"


def signed(value: float) -> str:
    """`+0.012`, and nothing without a sign."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text


def show_patch(axes, patch, label: str = "") -> None:
    axes.set_axis_on()
    axes.imshow(patch, interpolation="none")  # as "nearest", and an SVG keeps the patch's own pixels
    axes.set_xticks([])
    axes.set_yticks([])
    sns.despine(ax=axes, left=True, bottom=True)
    if label:
        axes.set_xlabel(label, fontsize=8, labelpad=2, parse_math=False)  # a patient's name may hold dollars


def head(axes, text: str, colour: str) -> None:
    """A title over several patches, which does not widen the first one's column."""
    axes.set_title(" ")  # keeps the height free
    axes.annotate(
        text, (0, 1.06), xycoords="axes fraction", color=colour, fontsize=11, fontweight="bold"
    ).set_in_layout(False)
