"""Procedural H&E-stained breast tissue: patches with known nuclei, generated from a seed without any download.

A patch is laid out in layout pixels of 4 microns (so that a patch of 50 spans 0.2 mm),
painted as haematoxylin and eosin optical densities on a supersampled canvas, turned into light by
Beer-Lambert absorption, averaged down and passed through a scanner model.

The classes differ in the size, shape and order of the epithelial nuclei and in gland structure.  Color is
kept a poor cue on purpose: dense benign lobules and lymphocyte clusters hold as much haematoxylin as a
tumor sheet, and sparse or vesicular tumor holds as little as stroma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bcgan.data.histology_phantom.canvas import (
    BASE_MPP,
    Canvas,
    PatientStyle,
    make_canvas,
    patient_style,
    points_in_mask,
    render,
)
from bcgan.data.histology_phantom.drawing import (
    LYMPHOCYTE,
    add_fat,
    add_filled_ducts,
    add_glands,
    add_nuclei,
    add_sheet,
    add_stroma,
    draw_region,
    epithelial_nuclei,
    hexagonal_lattice,
    tumor_nuclei,
)


@dataclass(frozen=True)
class Patch:
    """One rendered patch and its truth.

    ``image`` is uint8 (size, size, 3) RGB, 0 to 255.  ``nuclei`` is float32 (n, 4) with the columns x, y
    (px; 0 is the center of the first pixel), radius (px, of the circle of equal area) and malignant (0 or
    1); it lists every nucleus whose center is inside the patch, overlapped ones too.  ``density`` and
    ``tissue`` are the shares (0 to 1) of pixels covered by nuclei and by anything but clear background.
    ``architecture`` names the layout, a key of ``ARCHITECTURES[label]``.
    """

    image: np.ndarray
    nuclei: np.ndarray
    density: float
    tissue: float
    architecture: str


# The parts of a `Layout`: each draws on the canvas. ``mask`` is the region to draw in, bool (side, side), and ``angle``
# the direction of the stroma's fibers, radians; those of a part that are not used begin with an underscore.


def _add_lymphocytes(canvas: Canvas, rng: np.random.Generator, mask: np.ndarray, _angle: float) -> None:
    """Draw lymphocytes in ``mask`` where there is tissue without nuclei."""
    free = mask & (canvas.nuclear[..., 2] == 0) & (canvas.ground[..., 2] > 0.5)
    add_nuclei(
        canvas,
        rng,
        LYMPHOCYTE,
        points_in_mask(canvas, free, hexagonal_lattice(canvas, rng, rng.uniform(3.8, 6.0), 0.20)),
    )


def _add_duct(canvas: Canvas, rng: np.random.Generator, _mask: np.ndarray, _angle: float) -> None:
    """Draw one benign duct around the middle of the patch."""
    radius, layers = rng.uniform(11, 21), rng.integers(1, 3)
    centre = canvas.size / 2 + rng.uniform(-0.32, 0.32, (1, 2)) * canvas.size
    lumen = max(0.1, 1 - (2.5 + layers * rng.uniform(4, 5.5)) / radius)
    kind = replace(epithelial_nuclei(rng), elongation=1.5)
    add_glands(canvas, rng, kind, centre, np.array([radius]), lumen, wobble=0.07, layers=layers)


def _add_acini(canvas: Canvas, rng: np.random.Generator, mask: np.ndarray, _angle: float) -> None:
    """Draw small benign glands in ``mask``."""
    radius = rng.uniform(5.8, 8.2)
    centres = points_in_mask(canvas, mask, hexagonal_lattice(canvas, rng, radius * rng.uniform(2.0, 2.5), 0.05))
    radii = radius * rng.uniform(0.85, 1.08, len(centres))
    add_glands(canvas, rng, epithelial_nuclei(rng), centres, radii, rng.uniform(0.12, 0.32))


def _add_hyperplasia(canvas: Canvas, rng: np.random.Generator, mask: np.ndarray, _angle: float) -> None:
    """Fill ``mask`` with a sheet of benign epithelium."""
    kind = replace(epithelial_nuclei(rng), radius=rng.uniform(1.95, 2.65), spread=rng.uniform(0.08, 0.17))
    add_sheet(canvas, rng, kind, mask, kind.radius * rng.uniform(2.2, 2.7), rng.uniform(0.08, 0.18), slits=3)


def _add_tumour_sheet(canvas: Canvas, rng: np.random.Generator, mask: np.ndarray, _angle: float) -> None:
    """Fill ``mask`` with a sheet of tumor cells."""
    kind, halo = tumor_nuclei(canvas, rng), float(rng.choice([0.0, 0.7, 1.3]))
    spacing, jitter = kind.radius * rng.uniform(2.1, 2.9), rng.uniform(0.14, 0.26)
    add_sheet(canvas, rng, kind, mask, spacing, jitter, halo=halo)


def _add_tubules(canvas: Canvas, rng: np.random.Generator, _mask: np.ndarray, _angle: float) -> None:
    """Draw tumor glands over the patch."""
    centres = hexagonal_lattice(canvas, rng, rng.uniform(17, 26), 0.16)
    radii, kind = rng.uniform(6.5, 11.0, len(centres)), tumor_nuclei(canvas, rng)
    add_glands(canvas, rng, kind, centres, radii, rng.uniform(0.15, 0.5), wobble=0.15)


def _add_cords(canvas: Canvas, rng: np.random.Generator, _mask: np.ndarray, angle: float) -> None:
    """Draw up to six broken files of tumor cells that wander along ``angle``, and one to four single cells."""
    kind, size = tumor_nuclei(canvas, rng, cytoplasm=rng.uniform(1.2, 1.7)), canvas.size
    count, step = rng.integers(0, 7), kind.radius * rng.uniform(2.0, 2.6)
    along = np.arange(-0.7 * size, 0.7 * size, step) + rng.normal(0, 0.15 * step, (count, 1))
    start, length = rng.uniform(-0.8, 0.3, (count, 1)) * size, rng.uniform(0.3, 1.3, (count, 1)) * size
    present = (along > start) & (along < start + length) & (rng.random(along.shape) < 0.88)
    swing = np.sin(along * 2 * np.pi / rng.uniform(25, 60, (count, 1)) + rng.uniform(0, 6, (count, 1)))
    across = rng.uniform(-0.5, 0.5, (count, 1)) * size + rng.uniform(1, 4, (count, 1)) * swing
    u, v = along[present], across[present] + rng.normal(0, 0.14 * step, present.sum())
    files = np.stack([u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)], axis=1)
    single = rng.uniform(0.1, 0.9, (rng.integers(1, 5), 2)) * size  # so that no malignant patch is without
    xy = np.concatenate([size / 2 + files, single])
    add_nuclei(canvas, rng, kind, xy, angle + rng.normal(0, 0.4, len(xy)))


def _filled_ducts(holes: int = 0, necrosis: tuple[float, float] = (0.0, 0.0)):
    """Return a part that fills one to four ducts with tumor cells; of the range `necrosis` a value is drawn."""

    def add(canvas: Canvas, rng: np.random.Generator, _mask: np.ndarray, _angle: float) -> None:
        """Draw the ducts nearest to the center of a lattice."""
        kind, radius = tumor_nuclei(canvas, rng), rng.uniform(9.0, 17.0)
        lattice = hexagonal_lattice(canvas, rng, radius * rng.uniform(2.3, 3.2), 0.08, margin=radius)
        nearest = np.argsort(np.hypot(*(lattice - canvas.size / 2).T))
        centres = lattice[nearest[: rng.integers(1, 5)]]
        radii = radius * rng.uniform(0.75, 1.0, len(centres))
        spacing = kind.radius * rng.uniform(1.9, 2.4)
        add_filled_ducts(canvas, rng, kind, centres, radii, spacing, holes=holes, necrosis=rng.uniform(*necrosis))

    return add


@dataclass(frozen=True)
class Layout:
    """One architecture: its share of the label's patches and what is painted on the stroma."""

    share: float
    # One is drawn: a function of the canvas, random numbers, the region, bool (side, side), and the fibers' angle.
    parts: tuple[Callable[[Canvas, np.random.Generator, np.ndarray, float], None], ...] = ()
    low: float = 0.0  # the part's region covers a share of the patch between low and high
    high: float = 1.0
    fat: bool = False  # vacuoles outside that region
    inflamed: float = 0.25  # chance of scattered lymphocytes


ARCHITECTURES: dict[int, dict[str, Layout]] = {  # by label, 0 benign, 1 malignant, 2 carcinoma in situ
    0: {
        "stroma": Layout(0.14),
        "fat": Layout(0.12, (_add_acini, _add_lymphocytes), 0.0, 0.7, fat=True, inflamed=0.1),
        "duct": Layout(0.16, (_add_duct,)),
        "lobule": Layout(0.22, (_add_acini,), 0.4, 1.0, inflamed=0.1),
        "lymphocytes": Layout(0.16, (_add_lymphocytes,), 0.25, 0.95, inflamed=0.0),
        "hyperplasia": Layout(0.20, (_add_hyperplasia,), 0.35, 1.0),
    },
    1: {
        "solid": Layout(0.28, (_add_tumour_sheet,), 0.7, 1.0),
        "nests": Layout(0.20, (_add_tumour_sheet,), 0.12, 0.6),
        "cords": Layout(0.26, (_add_cords,)),
        "tubules": Layout(0.14, (_add_tubules,)),
        "fat_invasion": Layout(0.12, (_add_cords,), 0.0, 0.7, fat=True, inflamed=0.1),
    },
    2: {
        "solid_ducts": Layout(0.4, (_filled_ducts(),)),
        "cribriform": Layout(0.3, (_filled_ducts(holes=5),)),
        "comedo": Layout(0.3, (_filled_ducts(necrosis=(0.25, 0.5)),)),
    },
}


def _paint(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    """Draw stroma, then fat, the layout's part and stray lymphocytes, each over what lies there."""
    angle = add_stroma(canvas, rng, cleft=-4.0 if layout.fat else rng.uniform(-2.6, -1.9))
    region = draw_region(canvas, rng, layout.low, layout.high)
    if layout.fat:
        add_fat(canvas, rng, region)
    if layout.parts:
        layout.parts[rng.integers(len(layout.parts))](canvas, rng, region, angle)
    if rng.random() < layout.inflamed:
        _add_lymphocytes(canvas, rng, draw_region(canvas, rng, 0.08, 0.35), angle)


def render_patch(
    style: PatientStyle, label: int, rng: np.random.Generator, size: int = 50, mpp: float = BASE_MPP
) -> Patch:
    """Render one patch of ``size`` by ``size`` px at ``mpp`` microns per px.

    ``label`` is 0 (benign), 1 (malignant) or 2 (in situ).  A patch at another scale that spans as many microns, from
    the same generator state, shows the same tissue, seen closer. The same style, label, size and generator state give
    the same ``Patch``, whose fields state their shapes, types and units.
    """
    if label not in ARCHITECTURES:
        raise ValueError(f"label must be 0, 1 or 2, got {label!r}")
    canvas = make_canvas(size, mpp, style)
    names, layouts = zip(*ARCHITECTURES[label].items(), strict=True)
    shares = np.cumsum([layout.share for layout in layouts])
    chosen = int(np.searchsorted(shares, rng.random() * shares[-1]))
    _paint(canvas, rng, layouts[chosen])
    nuclei = np.concatenate(canvas.listed) if canvas.listed else np.zeros((0, 4))
    nuclei[:, :3] *= BASE_MPP / mpp  # from layout px to px of the image
    nuclei[:, :2] -= 0.5  # from the patch's corner to the center of its first pixel
    covered = canvas.nuclear[..., 2]
    tissue = float((np.maximum(covered, canvas.ground[..., 2]) > 0.5).mean())
    image = render(canvas, rng)
    return Patch(image, nuclei.astype(np.float32), float(covered.mean()), tissue, names[chosen])


def held_out_patches(
    count: int, size: int, label: int, seed: int, first: int = 0, mpp: float = BASE_MPP
) -> tuple[list[Patch], np.ndarray]:
    """Render patches of one class, four of each patient, of patients who are in no split.

    Args:
        first: Number of the first patient.
        mpp: Microns per pixel.

    Returns:
        The patches and the numbers of their patients, (count,).
    """
    patches, patients = [], np.repeat(np.arange(first, first + -(-count // 4)), 4)[:count]
    for patient in np.unique(patients):
        rng = np.random.default_rng((seed, 1_000_003, patient))
        style = patient_style(rng)
        patches += [render_patch(style, label, rng, size, mpp) for _ in range(4)]
    return patches[:count], patients


MAX_RENDERED = 256  # by `example_patches`, which varies these if more are requested


def example_patches(count: int, size: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Render tissue of ten patients, for benchmarks and checks without images; the result is always the same.

    Rendering is slow: beyond MAX_RENDERED, the same patches are repeated with other colors and one other pixel.

    Returns:
        uint8, (count, size, size, 3), and labels, int32, (count,), 0 and 1 in turn.
    """
    rng = np.random.default_rng(0)
    styles = [patient_style(rng) for _ in range(10)]
    rendered = np.stack([render_patch(styles[i % 10], i % 2, rng, size).image for i in range(min(count, MAX_RENDERED))])
    images = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, MAX_RENDERED):
        indices = np.arange(start, min(start + MAX_RENDERED, count))
        varied = rendered[: len(indices)].astype(int)  # values may leave the range of a byte until they are clipped
        varied += rng.integers(-8, 9, (len(indices), 1, 1, 3)) if start else 0
        varied[indices - start, indices % size, indices // size % size] ^= start // MAX_RENDERED % 8
        images[indices] = np.clip(varied, 0, 255)
    return images, (np.arange(count) % 2).astype(np.int32)
