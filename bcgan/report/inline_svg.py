"""Figures as part of the page: SVG whose colors follow light and dark, and whose tissue is at its native size."""

import base64
import io
import re
from html import escape
from typing import NamedTuple

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
DECIMALS = re.compile(r"(-?\d+\.\d{2})\d+")  # a hundredth of a point is below what a screen shows
EMBEDDED_PICTURE = re.compile(r'"data:image/(?:png|jpeg);base64,([^"]+)"')
MAX_LOSSLESS_RATIO = 1.5  # of the bytes without loss to those with it, up to which a picture is stored without
WEBP_QUALITY = 85  # of tissue, at its native size
PATH = re.compile(r'\bd="[^"]*"')
CSS_PX_PER_POINT = 4 / 3


class InlineFigure(NamedTuple):
    """A figure for the page."""

    svg: str
    width_px: int  # at which text has the size that it was drawn with
    is_picture: bool  # whether it shows patches or a heat map, and keeps its white ground on the dark page


def variable(color: str) -> str:
    """Return the CSS variable of a color, or the color itself if it is the same on the dark page."""
    by_lower = {light.lower(): light for light in DARK_COLORS}
    return f"var(--c{color[1:].lower()})" if color.lower() in by_lower else color


def color_variables(is_dark: bool) -> str:
    """Return the CSS declarations of the colors of figures."""
    colors = ((light, dark if is_dark else light) for light, dark in DARK_COLORS.items())
    return " ".join(f"--c{light[1:].lower()}: {color};" for light, color in colors)


def inline(svg: str, name: str, label: str, is_picture: bool) -> InlineFigure:
    """Return a figure's SVG as an element of the page.

    Args:
        svg: As matplotlib writes it.
        name: Of the figure. Identifiers in the SVG are made unique with it.
        label: For readers who do not see the figure.
        is_picture: Whether to keep all colors; a figure that contains a picture always does.
    """
    is_picture = is_picture or "<image" in svg
    text = METADATA.sub("", PROLOG.sub("<svg ", svg, count=1), count=1)
    text = INDENTATION.sub("\n", GLOBAL_STYLE.sub("", text, count=1))
    tag = SVG_TAG.match(text)[0]
    width_pt = float(dict(SIZE.findall(tag))["width"])
    text = SIZE.sub("", tag).replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1) + text[len(tag) :]
    text = IMAGE_ID.sub(r"\1", text)
    text = ID.sub(rf'id="{name}-\1"', text)
    text = REFERENCE.sub(rf"\1{name}-\2", text)
    text = PATH.sub(lambda match: DECIMALS.sub(r"\1", match[0]), text)
    text = EMBEDDED_PICTURE.sub(_as_webp, text)
    if not is_picture:
        text = COLOR.sub(lambda match: variable(match[0]), text)
    return InlineFigure(text, round(width_pt * CSS_PX_PER_POINT), is_picture)


def _as_webp(match: re.Match) -> str:
    """Return the data URI of a picture as WebP, or as it is if that is smaller.

    Maps and pictures with transparent parts are stored without loss; tissue, for which that takes far more, with
    WEBP_QUALITY.
    """
    original = base64.b64decode(match[1])
    picture = Image.open(io.BytesIO(original)).convert("RGBA")
    is_opaque = picture.getextrema()[3][0] == 255
    lossless = _encode(picture.convert("RGB") if is_opaque else picture, lossless=True, quality=100)
    lossy = _encode(picture.convert("RGB"), quality=WEBP_QUALITY) if is_opaque else lossless
    smaller = lossless if len(lossless) <= MAX_LOSSLESS_RATIO * len(lossy) else lossy
    if len(smaller) >= len(original):
        return match[0]
    return f'"data:image/webp;base64,{base64.b64encode(smaller).decode()}"'


def _encode(picture: Image.Image, **options) -> bytes:
    """Return a picture as WebP."""
    target = io.BytesIO()
    picture.save(target, format="WEBP", method=6, **options)
    return target.getvalue()
