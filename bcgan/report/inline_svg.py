"""Figures as part of the page: SVG whose colors follow light and dark, and whose tissue is at its native size."""

import base64
import io
import re
from collections import Counter
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from bcgan.report.style import DARK_COLORS

COLOR = re.compile(r"#[0-9a-fA-F]{6}\b")
PROLOG = re.compile(r"<\?xml.*?<svg ", re.DOTALL)
INDENTATION = re.compile(r"\n\s*")
GLOBAL_STYLE = re.compile(r"\s*<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)  # the page's CSS has it for all
METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
ID = re.compile(r'\bid="([^"]+)"')
IMAGE_ID = re.compile(r'(<image\b[^>]*?)\s+id="[^"]*"')  # the same for two equal pictures
REFERENCE = re.compile(r'(url\(#|xlink:href="#)([^)"]+)')
SVG_TAG = re.compile(r"<svg [^>]*>")
SIZE = re.compile(r' (width|height)="([\d.]+)pt"')
NUMBER = re.compile(r"-?\d+\.\d{2,}")  # in paths and places; a tenth of a point is what a screen shows
PLACE = re.compile(r'\b(x|y)="([^"]*)"')
UNROTATED = re.compile(r' transform="rotate\(-?0 [^)]*\)"')
FONT = re.compile(r"font-family: [^;\"]*; ?")  # the page's CSS has it
FONT_SHORTHAND = re.compile(r"font: ((?:\w+ )*)([\d.]+)px [^;\"]*")
STYLE = re.compile(r'(?:clip-path="([^"]*)" )?style="([^"]*)"')
RECTANGLE = re.compile(r'd="M (\S+) (\S+) L (\S+) \2 L \3 (\S+) L \1 \4 (?:L \1 \2|z)"')
MIN_REPEATED = 4  # elements with the same style, from which on it is a class
SCRIPTED_IDS = ("QuadMesh", "PathCollection", "sample-")  # of elements that the page's script looks for
EMBEDDED_PICTURE = re.compile(r'"data:image/(?:png|jpeg);base64,([^"]+)"')
MAX_LOSSLESS_RATIO = 1.5  # of the bytes without loss to those with it, up to which a picture is stored without
MAX_MEAN_ERROR = 11.0  # gray levels, of a picture with loss; tissue has less, a map of classes far more
DOT_COLORS = 32
LOSSLESS_EFFORT = 40  # of 100; all of it takes many times as long for a few percent of the bytes
WEBP_QUALITY = 75  # of tissue, at its native size
PATH = re.compile(r'\bd="([^"]*)"')
CSS_PX_PER_POINT = 4 / 3


class InlineFigure(NamedTuple):
    """A figure for the page."""

    svg: str
    width_px: int  # at which text has the size that it was drawn with
    is_picture: bool  # whether it shows patches or a heat map, and keeps its white ground on the dark page


def variable(color: str) -> str:
    """Return the CSS variable of a color, such as `var(--c222222)`, or the color if it is the same on the dark page."""
    return f"var(--c{color[1:].lower()})" if color.lower() in map(str.lower, DARK_COLORS) else color


def color_variables(is_dark: bool) -> str:
    """Return CSS declarations of the variables that `variable` names, with the colors of the dark or the light page."""
    colors = ((light, dark if is_dark else light) for light, dark in DARK_COLORS.items())
    return " ".join(f"--c{light[1:].lower()}: {color};" for light, color in colors)


def inline(svg: str, name: str, label: str, is_picture: bool) -> InlineFigure:
    """Return a figure's SVG as an element of the HTML page, with unique identifiers and fewer bytes.

    Colors become CSS variables, so that they follow the page's light or dark scheme.

    Args:
        svg: As matplotlib writes it.
        name: Of the figure. It begins all identifiers, as those of all figures share the page.
        label: Text for screen readers (aria-label).
        is_picture: Whether to keep all colors; a figure that contains a picture always does.
    """
    is_picture = is_picture or "<image" in svg
    text = METADATA.sub("", PROLOG.sub("<svg ", svg, count=1), count=1)
    text = INDENTATION.sub("\n", GLOBAL_STYLE.sub("", text, count=1))
    tag = SVG_TAG.match(text)[0]  # the opening tag, which has the size
    width_pt = float(dict(SIZE.findall(tag))["width"])
    text = SIZE.sub("", tag).replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1) + text[len(tag) :]
    text = IMAGE_ID.sub(r"\1", text)
    text = ID.sub(rf'id="{name}-\1"', text)
    text = REFERENCE.sub(rf"\1{name}-\2", text)
    text = _shorten(text, name)
    text = EMBEDDED_PICTURE.sub(_as_webp, text)
    if not is_picture:
        text = COLOR.sub(lambda match: variable(match[0]), text)
    return InlineFigure(text, round(width_pt * CSS_PX_PER_POINT), is_picture)


def _shorten(text: str, name: str) -> str:
    """Return an SVG that looks the same and is shorter: without unused identifiers, needless digits and fonts.

    Styles that occur often become CSS classes, whose names begin with that of the figure.
    """
    referenced = {match[1] for match in REFERENCE.findall(text)}

    def keep_id(match: re.Match) -> str:
        """Return the attribute `id`, or nothing if neither the SVG nor the page's script refers to it."""
        is_kept = match[1] in referenced or any(part in match[1] for part in SCRIPTED_IDS)
        return match[0] if is_kept else ""

    text = ID.sub(keep_id, text).replace("<g >", "<g>")
    text = PATH.sub(lambda match: f'd="{" ".join(NUMBER.sub(_round, match[1]).split())}"', text)
    text = PLACE.sub(lambda match: f'{match[1]}="{NUMBER.sub(_round, match[2])}"', text)
    text = FONT.sub("", UNROTATED.sub("", text))
    text = FONT_SHORTHAND.sub(r"font-size: \2px; font-weight: \1", text).replace("font-weight: ;", "")
    counts = Counter(STYLE.findall(text))
    repeated = (pair for pair in counts if counts[pair] >= MIN_REPEATED)
    classes = {pair: f"{name}{number}" for number, pair in enumerate(repeated)}

    def as_class(match: re.Match) -> str:
        """Return the class that replaces a style, or the style itself if it has none."""
        class_name = classes.get((match[1] or "", match[2]))
        return f'class="{class_name}"' if class_name else match[0]

    text = STYLE.sub(as_class, RECTANGLE.sub(r'd="M\1 \2H\3V\4H\1z"', text))
    rules = "".join(
        f".{class_name}{{{style}{f';clip-path:{clip}' if clip else ''}}}"
        for (clip, style), class_name in classes.items()
    )
    return text.replace(">", f"><style>{rules}</style>", 1) if rules else text


def _round(match: re.Match) -> str:
    """Return a number with one decimal, or none if that is 0."""
    return f"{float(match[0]):.1f}".removesuffix(".0")


def _as_webp(match: re.Match) -> str:
    """Return the quoted data URI of a picture as WebP, or unchanged if that is not smaller.

    Heat maps are stored lossless, as lossy compression would mix their colors. Tissue is stored lossy, with
    WEBP_QUALITY, as lossless compression takes far more bytes. Transparent pictures, which are dots of a scatter plot,
    are reduced to DOT_COLORS colors.

    Args:
        match: Of EMBEDDED_PICTURE. Its group is the PNG or JPEG in base64.
    """
    original = base64.b64decode(match[1])
    picture = Image.open(io.BytesIO(original)).convert("RGBA")
    is_opaque = picture.getextrema()[3][0] == 255
    exact = picture.convert("RGB") if is_opaque else picture.quantize(DOT_COLORS).convert("RGBA")
    lossless = _encode(exact, lossless=True, quality=LOSSLESS_EFFORT)
    lossy = _encode(picture.convert("RGB"), quality=WEBP_QUALITY) if is_opaque else lossless
    is_lossless_small = len(lossless) <= MAX_LOSSLESS_RATIO * len(lossy)
    webp = lossless if is_lossless_small or _mean_error(lossy, exact) > MAX_MEAN_ERROR else lossy
    if len(webp) >= len(original):
        return match[0]
    return f'"data:image/webp;base64,{base64.b64encode(webp).decode()}"'


def _mean_error(data: bytes, picture: Image.Image) -> float:
    """Return the mean absolute difference of an encoded picture from the picture, in gray levels."""
    return float(np.abs(np.asarray(Image.open(io.BytesIO(data)), np.int16) - np.asarray(picture, np.int16)).mean())


def _encode(picture: Image.Image, **options) -> bytes:
    """Return a picture as WebP; `options` are those of `Image.save`."""
    target = io.BytesIO()
    picture.save(target, format="WEBP", method=4, **options)
    return target.getvalue()
