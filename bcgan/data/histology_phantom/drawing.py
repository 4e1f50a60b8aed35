"""What tissue is made of: fibers, fat, glands and nuclei, drawn on a canvas.

Lengths are in layout px of 4 microns. The channels of ``canvas.ground`` are haematoxylin, eosin and tissue share, those
of ``canvas.nuclear`` haematoxylin, chromatin amplitude and coverage.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bcgan.data.histology_phantom.canvas import (
    FIXED_POINT_BITS,
    Canvas,
    fiber_texture,
    noise_window,
    points_in_mask,
    scale_length,
    to_fixed_point,
)

_MEMBRANE = (0.06, 0.65, 1.0)  # ground values of a basement membrane
_MARGIN = 4.0  # px beyond the border where nuclei are still drawn, so that cut nuclei exist


@dataclass(frozen=True)
class NucleusType:
    """How one kind of nucleus looks; radii in px, densities before the patient's stain strength."""

    radius: float
    spread: float  # log standard deviation of the radius
    elongation: float  # mean long axis over short axis
    irregular: float  # relative amplitude of the outline's lobes
    od: float
    od_spread: float = 0.10
    vesicular: float = 0.0  # share of nuclei with a dark rim round a pale center
    chromatin: float = 0.15  # relative amplitude of the chromatin texture
    cytoplasm: float = 0.0  # radius of a drawn cell body over that of its nucleus; 0 draws none
    malignant: bool = False


_MYOEPITHELIAL = NucleusType(1.45, 0.10, 2.3, 0.03, 0.90)
_FIBROBLAST = NucleusType(1.35, 0.15, 3.4, 0.05, 0.80)
LYMPHOCYTE = NucleusType(1.60, 0.07, 1.10, 0.03, 1.05)


def _random_outlines(rng: np.random.Generator, count: int, irregular: float, corners: int) -> tuple[np.ndarray, ...]:
    """Draw closed outlines with two to four lobes.

    Returns:
        The angles of their corners, radians, (corners,), and the radii there, relative to a circle's, (count, corners).
    """
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    lobes = np.arange(2, 5)
    gain = irregular * rng.normal(0, 1, (count, 3, 1)) / np.sqrt(lobes - 1)[:, None]
    waves = np.cos(lobes[:, None] * turn + rng.uniform(0, 2 * np.pi, (count, 3, 1)))
    return turn, np.clip(1.0 + (gain * waves).sum(axis=1), 0.5, 1.6)


def add_nuclei(
    canvas: Canvas, rng: np.random.Generator, kind: NucleusType, xy: np.ndarray, angle: np.ndarray | float | None = None
) -> None:
    """Draw one nucleus of ``kind`` at each row of ``xy``, and add those inside the patch to ``canvas.listed``.

    Args:
        xy: Centers, float (n, 2), layout px.
        angle: Direction of the long axes, radians, (n,) or scalar. Defaults to random ones.
    """
    angle = rng.uniform(0, np.pi, len(xy)) if angle is None else np.broadcast_to(angle, len(xy))
    near = ((xy > -_MARGIN) & (xy < canvas.size + _MARGIN)).all(axis=1)
    xy, angle = xy[near], angle[near]
    n = len(xy)
    if n == 0:
        return
    radius = kind.radius * canvas.style.nuclear_scale * np.exp(rng.normal(0, kind.spread, n))
    stretch = np.sqrt(1.0 + (kind.elongation - 1.0) * rng.uniform(0.5, 1.5, n))
    corner_angles, corner_radii = _random_outlines(rng, n, kind.irregular, 14)
    drawn_radius = radius - 0.12 / canvas.zoom  # OpenCV also fills the canvas pixels on the outline
    # Outlines along the long and the short axis, then turned by the angle; the area does not depend on the elongation.
    u = corner_radii * np.cos(corner_angles) * (drawn_radius * stretch)[:, None]
    v = corner_radii * np.sin(corner_angles) * (drawn_radius / stretch)[:, None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    outline = np.stack([u * cos - v * sin, u * sin + v * cos], axis=-1)  # around (0, 0), (n, corners, 2)
    centre = xy[:, None, :]
    if kind.cytoplasm:
        cytoplasm = (rng.uniform(0.06, 0.16), rng.uniform(0.22, 0.44), 1.0)
        for cell in to_fixed_point(canvas, centre + kind.cytoplasm * outline):
            cv2.fillConvexPoly(canvas.ground, cell, cytoplasm, 8, FIXED_POINT_BITS)
    od = kind.od * np.exp(rng.normal(0, kind.od_spread, n))
    vesicular = (rng.random(n) < kind.vesicular).tolist()
    outer, inner = to_fixed_point(canvas, centre + outline), to_fixed_point(canvas, centre + 0.70 * outline)
    nucleoli = to_fixed_point(canvas, xy + rng.normal(0, 0.2, (n, 2)) * radius[:, None]).tolist()
    for i, level in enumerate(od.tolist()):
        cv2.fillConvexPoly(canvas.nuclear, outer[i], (level, kind.chromatin, 1.0), 8, FIXED_POINT_BITS)
        if vesicular[i]:
            cv2.fillConvexPoly(canvas.nuclear, inner[i], (0.5 * level, kind.chromatin, 1.0), 8, FIXED_POINT_BITS)
            cv2.circle(
                canvas.nuclear, nucleoli[i], scale_length(canvas, 18), (1.25 * level, 0.0, 1.0), -1, 8, FIXED_POINT_BITS
            )
    nuclei = np.column_stack([xy, radius, np.full(n, kind.malignant)])
    canvas.listed.append(nuclei[((xy >= 0) & (xy < canvas.size)).all(axis=1)])


def _unlist_erased_nuclei(canvas: Canvas) -> None:
    """Remove nuclei from the list that were erased by tissue painted over them."""
    canvas.listed[:] = [points_in_mask(canvas, canvas.nuclear[..., 2] > 0, nuclei) for nuclei in canvas.listed]


def epithelial_nuclei(rng: np.random.Generator) -> NucleusType:
    """Draw the look of the benign epithelial nuclei of one patch, which vary little."""
    return NucleusType(
        rng.uniform(1.8, 2.35),
        rng.uniform(0.07, 0.12),
        1.25,
        0.03,
        rng.uniform(0.5, 0.9),
        vesicular=rng.uniform(0.1, 0.6),
        chromatin=0.22,
    )


def tumor_nuclei(canvas: Canvas, rng: np.random.Generator, cytoplasm: float = 0.0) -> NucleusType:
    """Draw the look of the tumor nuclei of one patch: larger and more varied for a high grade, dark or vesicular."""
    grade = float(np.clip(canvas.style.grade + rng.normal(0, 0.2), 0, 1))
    pale = rng.random()
    radius, spread, irregular = 2.15 + 0.80 * grade, 0.12 + 0.14 * grade, 0.05 + 0.07 * grade
    return NucleusType(
        radius,
        spread,
        1.35,
        irregular,
        od=0.88 - 0.34 * pale,
        od_spread=0.15,
        vesicular=0.1 + 0.7 * pale,
        chromatin=0.26,
        cytoplasm=cytoplasm,
        malignant=True,
    )


def hexagonal_lattice(canvas, rng, spacing: float, jitter: float, margin: float = _MARGIN) -> np.ndarray:
    """Return a randomly turned hexagonal lattice over the patch and ``margin`` px around it, float (n, 2), layout px.

    ``jitter`` is the standard deviation of each coordinate in units of the spacing.
    """
    spacing = spacing / np.sqrt(canvas.style.density)
    reach = int(np.ceil((0.75 * canvas.size + 1.5 * margin) / (0.86 * spacing))) + 1
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    grid = np.stack([column + 0.5 * (row % 2), 0.866 * row], axis=1) + rng.uniform(-0.5, 0.5, 2)
    turn = rng.uniform(0, np.pi)
    turned = grid @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = canvas.size / 2 + spacing * (turned + rng.normal(0, jitter, grid.shape))
    return points[((points > -margin) & (points < canvas.size + margin)).all(axis=1)]


def add_stroma(canvas: Canvas, rng: np.random.Generator, cleft: float) -> float:
    """Draw collagen with spindle or plump (reactive) fibroblasts, and return the direction of its fibers, radians.

    ``cleft`` is the value of the fiber texture, of unit variance, below which there is no tissue.
    """
    angle = rng.uniform(0, np.pi)
    fibres = fiber_texture(rng, canvas, angle)
    tissue = np.clip((fibres - cleft) * 4.0, 0, 1)  # clefts open between bundles
    canvas.ground[..., 0] = tissue * rng.uniform(0.02, 0.07)
    eosin = rng.uniform(0.17, 0.38) + rng.uniform(0.05, 0.12) * fibres
    canvas.ground[..., 1] = tissue * np.maximum(eosin, 0.05)
    canvas.ground[..., 2] = tissue
    count = rng.poisson(rng.uniform(3, 15) * canvas.style.density * (canvas.size / 50) ** 2)
    xy = rng.uniform(-_MARGIN, canvas.size + _MARGIN, (count, 2))
    kind = _FIBROBLAST
    if rng.random() < 0.3:
        kind = NucleusType(rng.uniform(1.6, 2.2), 0.15, rng.uniform(1.5, 2.6), 0.05, 0.65, vesicular=0.4)
    add_nuclei(canvas, rng, kind, xy, angle + rng.normal(0, 0.25, count))
    return angle


def draw_region(canvas: Canvas, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Return a smooth random region over a share of the patch between ``low`` and ``high``; bool (side, side)."""
    height = noise_window(rng, canvas, "region")
    return height > np.quantile(height[::4, ::4], 1.0 - rng.uniform(low, high))


def add_sheet(canvas, rng, kind, mask, spacing, jitter, *, halo=0.0, slits=0) -> None:
    """Fill ``mask`` with epithelium.

    Args:
        kind: The nuclei.
        mask: bool (side, side).
        spacing, jitter: Of the nuclei, as `hexagonal_lattice` takes them.
        halo: Width of patchy retraction around the mask, layout px.
        slits: Largest number of small lumens.
    """
    if halo:
        width = 2 * int(halo * canvas.scale) + 1
        near = cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8)) > 0
        canvas.ground[near & (noise_window(rng, canvas, "coarse") > 0.2)] = 0.0
    canvas.nuclear[mask] = 0.0  # fibroblasts do not lie inside epithelium
    _unlist_erased_nuclei(canvas)
    canvas.ground[mask] = (rng.uniform(0.06, 0.16), rng.uniform(0.18, 0.40), 1.0)
    points = points_in_mask(canvas, mask, hexagonal_lattice(canvas, rng, spacing, jitter))
    for slit in points_in_mask(canvas, mask, rng.uniform(0, canvas.size, (rng.integers(0, slits + 1), 2))):
        turn, lobes = _random_outlines(rng, 1, 0.2, 24)
        hole = rng.uniform(2.0, 4.0) * lobes[0][:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        cv2.fillPoly(canvas.ground, [to_fixed_point(canvas, slit + hole)], (0.0, 0.02, 0.0), 8, FIXED_POINT_BITS)
        points = points[np.hypot(*(points - slit).T) > 5.0]
    if not kind.malignant:
        edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas.ground, edges, -1, _MEMBRANE, scale_length(canvas, 2))
    add_nuclei(canvas, rng, kind, points)


def add_glands(
    canvas: Canvas, rng: np.random.Generator, kind: NucleusType, centres: np.ndarray, radii: np.ndarray, lumen: float,
    *, wobble: float = 0.06, layers: int = 1,
) -> None:  # fmt: skip
    """Draw rings of nuclei around lumens; benign ones have myoepithelium and a basement membrane.

    Args:
        kind: The nuclei of the epithelium.
        centres: (n, 2), layout px.
        radii: (n,), layout px, up to the membrane.
        lumen: Radius of the lumen, as a fraction of the gland's.
        wobble: Relative amplitude of the walls' lobes.
        layers: Rings of epithelial nuclei.
    """
    n, benign = len(centres), not kind.malignant
    corner_angles, lobes = _random_outlines(rng, n, wobble, 40)
    circle = np.stack([np.cos(corner_angles), np.sin(corner_angles)], axis=1)
    outline = circle * lobes[..., None] * radii[:, None, None]  # around (0, 0), (n, 40, 2)
    walls, holes = (to_fixed_point(canvas, centres[:, None] + factor * outline) for factor in (1.0, lumen))
    body = (rng.uniform(0.06, 0.14), rng.uniform(0.20, 0.38), 1.0)
    content = (0.02, 0.22, 1.0) if rng.random() < 0.25 else (0.0, 0.02, 0.0)  # secretion or empty
    for wall, hole in zip(walls, holes, strict=True):
        cv2.fillPoly(canvas.ground, [wall], body, 8, FIXED_POINT_BITS)
        cv2.fillPoly(canvas.nuclear, [wall], (0.0, 0.0, 0.0), 8, FIXED_POINT_BITS)
        cv2.fillPoly(canvas.ground, [hole], content, 8, FIXED_POINT_BITS)
        if benign:
            cv2.polylines(canvas.ground, [wall], True, _MEMBRANE, scale_length(canvas, 2), 8, FIXED_POINT_BITS)
    _unlist_erased_nuclei(canvas)
    disorder = 0.07 if benign else 0.20
    # Each ring: the nuclei, their distance from the center, their spacing along the ring, and their tilt.
    rings = [(_MYOEPITHELIAL, radii - 1.3, 8.0, np.pi / 2)] if benign else []
    depth = (radii * (1 - lumen) - (2.0 if benign else 0.5)) / layers
    rings += [(kind, radii * lumen + depth * (k + 0.5), 2.45 * kind.radius, 0.0) for k in range(layers)]
    for ring_kind, ring_radii, spacing, tilt in rings:
        count = np.maximum(np.rint(2 * np.pi * ring_radii * np.sqrt(canvas.style.density) / spacing), 3).astype(int)
        gland = np.repeat(np.arange(n), count)  # of each nucleus
        step = np.arange(len(gland)) + rng.normal(0, disorder, len(gland)) + rng.uniform(size=n)[gland]
        angle = (step * 2 * np.pi / count[gland]) % (2 * np.pi)
        distance = ring_radii[gland] * lobes[gland, (angle * 40 / (2 * np.pi)).astype(int) % 40]
        distance += rng.normal(0, disorder, len(gland)) * kind.radius
        xy = centres[gland] + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        add_nuclei(canvas, rng, ring_kind, xy, angle + tilt + rng.normal(0, disorder, len(gland)))


def add_filled_ducts(canvas, rng, kind, centres, radii, spacing, *, holes=0, necrosis=0.0) -> None:
    """Draw ducts that crowded tumor nuclei fill, within their myoepithelium and basement membrane.

    Args:
        kind, spacing: The tumor nuclei, and their spacing, layout px.
        centres: (n, 2), layout px.
        radii: (n,), layout px, up to the membrane.
        holes: Largest number of round lumens in a duct.
        necrosis: Share of a duct's radius that is dead: eosinophilic and without nuclei.
    """
    turn, lobes = _random_outlines(rng, len(centres), 0.08, 40)
    compass = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    mask, core = np.zeros((2, canvas.side, canvas.side), np.uint8)
    walls = to_fixed_point(canvas, centres[:, None] + (lobes * radii[:, None])[..., None] * compass)
    cores = to_fixed_point(canvas, centres[:, None] + (necrosis * lobes * radii[:, None])[..., None] * compass)
    for wall, dead in zip(walls, cores, strict=True):
        cv2.fillPoly(mask, [wall], 1, 8, FIXED_POINT_BITS)
        if necrosis:
            cv2.fillPoly(core, [dead], 1, 8, FIXED_POINT_BITS)
    alive = (mask > 0) & (core == 0)
    add_sheet(canvas, rng, kind, alive, spacing, rng.uniform(0.10, 0.18), slits=holes * len(centres))
    if necrosis:
        canvas.ground[core > 0] = (rng.uniform(0.03, 0.08), rng.uniform(0.45, 0.65), 1.0)
        canvas.nuclear[core > 0] = 0.0
        _unlist_erased_nuclei(canvas)
    outside = cv2.dilate(mask, np.ones((3, 3), np.uint8)) == 0
    canvas.nuclear[~outside & (mask == 0)] = 0.0  # no nucleus reaches over the membrane
    for wall, radius, centre, lobe in zip(walls, radii, centres, lobes, strict=True):
        cv2.polylines(canvas.ground, [wall], True, _MEMBRANE, scale_length(canvas, 2), 8, FIXED_POINT_BITS)
        count = max(3, round(2 * np.pi * radius * np.sqrt(canvas.style.density) / 8.0))
        where = (np.arange(count) + rng.normal(0, 0.15, count) + rng.uniform()) * 2 * np.pi / count
        at = radius * lobe[(where * 40 / (2 * np.pi)).astype(int) % 40] - 1.0
        xy = centre + at[:, None] * np.stack([np.cos(where), np.sin(where)], axis=1)
        add_nuclei(canvas, rng, _MYOEPITHELIAL, xy, where + np.pi / 2)


def add_fat(canvas: Canvas, rng: np.random.Generator, spared: np.ndarray) -> None:
    """Draw fat vacuoles, 20 to 34 px wide, between thin membranes, outside the region ``spared``, bool (side, side).

    A vacuole is a Voronoi cell. Membranes are where the nearest two centers are equally far.
    """
    cells = hexagonal_lattice(
        canvas, rng, rng.uniform(20, 34), 0.16, margin=40.0
    )  # a margin: its cells border on those inside
    axis = ((np.arange(canvas.pixels) + 0.5) * (canvas.size / canvas.pixels)).astype(np.float32)
    # (pixels, pixels, cells): the distance of each pixel from each center; then the smallest two of them.
    gap = np.hypot(axis[None, :, None] - cells[:, 0], axis[:, None, None] - cells[:, 1]).astype(np.float32)
    gap = np.partition(gap, 1, axis=2)
    rounding = 1.6 * canvas.pixels / canvas.size
    wall = cv2.GaussianBlur(gap[..., 1] - gap[..., 0], (0, 0), rounding)  # rounds the corners of the vacuoles
    wall = cv2.resize(wall, (canvas.side, canvas.side), interpolation=cv2.INTER_CUBIC)
    hollow = np.clip(wall + 0.4 * noise_window(rng, canvas, "coarse") - rng.uniform(1.7, 2.6), 0, 1)
    hollow[spared] = 0.0
    canvas.ground[:] *= (1.0 - hollow)[..., None]
    canvas.nuclear[hollow > 0.5] = 0.0
    _unlist_erased_nuclei(canvas)
