"""The canvas that tissue is drawn on, with its textures, and the stain and scanner that turn it into an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

VERSION = "1.1.0"  # of the tissue: raised whenever a patch changes
BASE_MPP = 4.0  # microns per layout pixel: tissue is laid out at this scale, whatever the scale of the image
SCALE = 3  # canvas pixels per layout pixel for an image at BASE_MPP, per axis; the textures are drawn for it
FINE_SCALE = 2  # canvas pixels per image pixel for a finer image
FIXED_POINT_BITS = 4  # fractional bits of the polygon corners handed to OpenCV
_TILE = 512  # side of the periodic noise textures

# Optical-density directions (R, G, B) of Ruifrok & Johnston (2001).
_HAEMATOXYLIN = (0.65, 0.70, 0.29)
_EOSIN = (0.07, 0.99, 0.11)


@dataclass(frozen=True)
class PatientStyle:
    """What all patches of one patient share: stain, scanner and tissue tendencies.

    ``haematoxylin`` and ``eosin`` are float32 (3,) unit optical-density directions in R, G, B order, drawn
    round those of Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution",
    Anal. Quant. Cytol. Histol. 23 (2001) 291-299.
    """

    haematoxylin: np.ndarray
    eosin: np.ndarray
    haematoxylin_strength: float  # factor on the haematoxylin density, about 0.7 to 1.3
    eosin_strength: float  # factor on the eosin density, about 0.65 to 1.35
    white_point: np.ndarray  # float32 (3,), level of clear glass, 228 to 252
    gamma: float  # exponent on transmitted light, 0.88 to 1.12
    blur: float  # px, standard deviation of the scanner's point spread, 0.3 to 0.75
    noise: float  # gray levels, standard deviation of the sensor noise, 1 to 3.5
    density: float  # factor on cells per area, about 0.85 to 1.15
    nuclear_scale: float  # factor on every nuclear radius, about 0.9 to 1.1
    grade: float  # 0 to 1: how pleomorphic this patient's tumor is


@dataclass(frozen=True)
class Canvas:
    """Supersampled drawing surface; layout coordinates are layout px from the patch's upper left corner."""

    size: float  # layout px
    pixels: int  # side of the image, px
    style: PatientStyle
    ground: np.ndarray  # float32 (side, side, 3): haematoxylin, eosin, tissue share
    nuclear: np.ndarray  # float32 (side, side, 3): haematoxylin, chromatin amplitude, coverage
    listed: list = field(default_factory=list)  # (k, 4) arrays of nuclei, in layout coordinates

    @property
    def side(self) -> int:
        """Return the side of the canvas, canvas px."""
        return self.ground.shape[0]

    @property
    def scale(self) -> float:
        """Return the canvas px per layout px."""
        return self.side / self.size

    @property
    def zoom(self) -> float:
        """Return how many times finer the canvas is than the one that textures and line widths are made for."""
        return self.scale / SCALE


def make_canvas(size: int, mpp: float, style: PatientStyle) -> Canvas:
    """Return an empty canvas for an image of ``size`` px at ``mpp`` microns per px."""
    canvas_px = SCALE * mpp / BASE_MPP if mpp >= BASE_MPP else FINE_SCALE  # for each pixel of the image
    side = round(size * canvas_px)
    blank = np.zeros((side, side, 3), np.float32)
    return Canvas(size * mpp / BASE_MPP, size, style, blank, blank.copy())


def patient_style(rng: np.random.Generator) -> PatientStyle:
    """Draw one patient's stain, scanner and tissue tendencies; see ``PatientStyle`` for units and ranges.

    The stain directions scatter round Ruifrok & Johnston (2001), as they do between laboratories.
    """

    def direction(base: np.ndarray | tuple[float, ...]) -> np.ndarray:
        """Draw a unit direction near ``base``, float32 (3,)."""
        vector = np.clip(np.asarray(base) + rng.normal(0.0, 0.035, 3), 0.02, None)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    return PatientStyle(
        haematoxylin=direction(_HAEMATOXYLIN),
        eosin=direction(np.add(_EOSIN, (0.05, -0.04, 0.16))),
        haematoxylin_strength=float(np.exp(rng.normal(0.0, 0.14))),
        eosin_strength=float(np.exp(rng.normal(0.0, 0.16))),
        white_point=(rng.uniform(234, 248) + rng.uniform(-6, 4, 3)).astype(np.float32),
        gamma=float(rng.uniform(0.88, 1.12)),
        blur=float(rng.uniform(0.3, 0.75)),
        noise=float(rng.uniform(1.0, 3.5)),
        density=float(np.exp(rng.normal(0.0, 0.08))),
        nuclear_scale=float(np.exp(rng.normal(0.0, 0.05))),
        grade=float(rng.uniform(0.0, 1.0)),
    )


def render(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Turn a canvas into an image, uint8 (size, size, 3), RGB.

    Beer-Lambert absorption at canvas resolution, then area average, blur, gamma, noise. `Canvas` says what the
    channels of ground and nuclear are; those of stain are haematoxylin and eosin.
    """
    style, ground, nuclear = canvas.style, canvas.ground, canvas.nuclear
    # Both stains vary over the tissue. Nuclei cover most of what lies under them; chromatin makes them uneven.
    mottle = 1.0 + 0.16 * noise_window(rng, canvas, "fine") + 0.10 * noise_window(rng, canvas, "coarse")
    covered = nuclear[..., 2]
    stain = np.empty((canvas.side, canvas.side, 2), np.float32)
    chromatin = np.maximum(1.0 + nuclear[..., 1] * noise_window(rng, canvas, "fine"), 0.25)
    stain[..., 0] = ground[..., 0] * mottle * (1.0 - 0.6 * covered) + nuclear[..., 0] * chromatin
    stain[..., 1] = ground[..., 1] * mottle * (1.0 - 0.55 * covered) + 0.16 * covered
    stain = _blur_section(np.maximum(stain, 0.0), canvas.zoom)
    vectors = np.stack([style.haematoxylin * style.haematoxylin_strength, style.eosin * style.eosin_strength])
    # Optical density is decadic, hence ln(10).
    absorbed = (stain.reshape(-1, 2) @ (vectors * -np.log(10.0)).astype(np.float32)).reshape(ground.shape)
    light = cv2.resize(cv2.exp(absorbed), (canvas.pixels, canvas.pixels), interpolation=cv2.INTER_AREA)
    light = cv2.GaussianBlur(light, (5, 5), style.blur)
    image = style.white_point * cv2.pow(light, style.gamma)
    image += style.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _blur_section(stain: np.ndarray, zoom: float) -> np.ndarray:
    """Soften edges, as the thickness of the section does; float32 (side, side, 2) to the same."""
    return cv2.GaussianBlur(stain, (5, 5) if zoom == 1 else (0, 0), 0.9 * zoom)


@lru_cache(maxsize=1)
def _textures() -> dict[str, np.ndarray]:
    """Return periodic unit-variance Gaussian noise, float32 (_TILE, _TILE), by name; filtered in Fourier space."""
    rng = np.random.default_rng(20010823)  # fixed: every patch cuts its noise out of the same sheets
    fy, fx = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :]
    # Standard deviation of the Gaussian filter along y and x, canvas px at BASE_MPP.
    sigmas = {"fine": (1.3, 1.3), "coarse": (5.0, 5.0), "region": (20.0, 20.0), "fibre": (1.7, 22.0)}
    sheets = {}
    for name, (sy, sx) in sigmas.items():
        spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))
        spectrum *= np.exp(-2.0 * np.pi**2 * ((sy * fy) ** 2 + (sx * fx) ** 2))
        sheet = np.fft.irfft2(spectrum, (_TILE, _TILE))
        sheets[name] = ((sheet - sheet.mean()) / sheet.std()).astype(np.float32)
    return sheets


def noise_window(rng: np.random.Generator, canvas: Canvas, name: str) -> np.ndarray:
    """Return a random window, float32 (side, side), of a noise sheet, enlarged by the canvas's zoom."""
    oy, ox = rng.integers(0, _TILE, 2)
    sheet, is_upright = _textures()[name], rng.random() < 0.5
    if canvas.zoom == 1:
        steps = np.arange(canvas.side)
        window = sheet.take((oy + steps) % _TILE, axis=0).take((ox + steps) % _TILE, axis=1)
    else:
        steps = ((np.arange(canvas.side) + 0.5) / canvas.zoom - 0.5).astype(np.float32)
        columns, rows = np.meshgrid(np.float32(ox) + steps, np.float32(oy) + steps)
        window = cv2.remap(sheet, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
    return window if is_upright else window.T


def fiber_texture(rng: np.random.Generator, canvas: Canvas, angle: float) -> np.ndarray:
    """Return a wavy fiber texture along ``angle`` (radians): float32 (side, side), about mean 0 and variance 1."""
    positions = np.arange(canvas.side, dtype=np.float32)
    if canvas.zoom != 1:  # textures are made for a zoom of 1
        positions = ((positions + 0.5) / canvas.zoom - 0.5).astype(np.float32)
    x, y = positions[None, :], positions[:, None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    offset_y, offset_x, phase = rng.uniform(0, _TILE), rng.uniform(0, _TILE), rng.uniform(0, 2 * np.pi)
    # Look up a texture of horizontal fibers in turned coordinates, bent by a wave and by smooth noise.
    along = x * cos + y * sin
    bend = np.sin(along * np.float32(2 * np.pi / rng.uniform(45, 110)) + np.float32(phase))
    across = y * cos - x * sin + np.float32(rng.uniform(1.5, 6)) * bend
    across += np.float32(5.0) * noise_window(rng, canvas, "region")
    along, across = along + np.float32(offset_x), across + np.float32(offset_y)
    return cv2.remap(_textures()["fibre"], along, across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def to_fixed_point(canvas: Canvas, points: np.ndarray) -> np.ndarray:
    """Convert layout coordinates, (..., 2) x and y, to OpenCV's fixed-point canvas coordinates (int32)."""
    return np.rint((points * canvas.scale - 0.5) * (1 << FIXED_POINT_BITS)).astype(np.int32)


def scale_length(canvas: Canvas, length: float) -> int:
    """Return a length in whole canvas units, at least one, from one that is meant for an image at BASE_MPP."""
    return max(1, round(length * canvas.zoom))


def points_in_mask(canvas: Canvas, mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the rows of ``points`` (x, y, ... px) in ``mask`` (side, side), whose border values extend outwards."""
    column, row = np.clip((points[:, :2] * canvas.scale).astype(int), 0, len(mask) - 1).T
    return points[mask[row, column]]
