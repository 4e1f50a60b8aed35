"""Whether the annotations of a slide can be those of its image."""

import numpy as np

from bcgan.slides.annotations import REGION, AnnotationFile, Decisions, escape_name
from bcgan.slides.files import printable


def check_contents(annotations: AnnotationFile, decisions: Decisions) -> None:
    """Check that a file annotates something, and that no area has two labels.

    Raises:
        ValueError: Nothing in it has a class, or the same polygon has two labels.
    """
    if not annotations.polygons and not annotations.shapes and (annotations.unclassified or annotations.skipped):
        count = annotations.unclassified + sum(annotations.skipped.values())
        raise ValueError(
            f"{printable(str(annotations.path))} has {count} objects and no annotation with a class, so that all "
            "tissue would be benign. Give them classes, or export a file without features for a slide without tumour "
            "tissue."
        )
    labels: dict[bytes, tuple[str, str]] = {}
    for polygon in annotations.polygons:
        label = decisions.resolve(polygon.name)[1]
        name, known_label = labels.setdefault(_ring_key(polygon.rings[0]), (polygon.name, label))
        if known_label != label and REGION not in (known_label, label):
            raise ValueError(
                f"{printable(str(annotations.path))} has the same polygon as {escape_name(name)} ({known_label}) and "
                f"as {escape_name(polygon.name)} ({label}). Remove one of them."
            )


def _ring_key(ring: np.ndarray) -> bytes:
    """Return the same bytes for rings of the same corners, wherever they start and whichever way they go round.

    Args:
        ring: float64 (points, 2), closed or not.
    """
    points = ring.round(3) + 0.0  # which makes -0 0
    points = points[(points != np.roll(points, 1, 0)).any(1)]  # the end is the start, or a point is repeated
    onward, back = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    is_corner = onward[:, 0] * back[:, 1] != onward[:, 1] * back[:, 0]
    points = points[is_corner] if is_corner.any() else points
    ways = []
    for way in (points, points[::-1]) if len(points) else ():
        first = way[np.lexsort(way.T)[0]]
        ways += [np.roll(way, -start, 0).tobytes() for start in np.flatnonzero((way == first).all(1))]
    return min(ways, default=ring.tobytes())


def count_polygons_outside(annotations: AnnotationFile, size: tuple[int, int]) -> int:
    """Return how many polygons lie completely outside of the image.

    Args:
        size: (width, height) of the image, pixels of the slide.

    Raises:
        ValueError: If all polygons do: they belong to another image or scale.
    """
    boxes = [(polygon.rings[0].min(0), polygon.rings[0].max(0)) for polygon in annotations.polygons]
    outside = sum((low >= size).any() or (high <= 0).any() for low, high in boxes)
    if outside and outside == len(boxes):
        low, high = np.min([low for low, _ in boxes], 0), np.max([high for _, high in boxes], 0)
        raise ValueError(
            f"{printable(str(annotations.path))}: all {outside} polygons lie outside of the image of "
            f"{size[0]}x{size[1]} pixels, x from {low[0]:,.0f} to {high[0]:,.0f} and y from {low[1]:,.0f} to "
            f"{high[1]:,.0f}. They were drawn on another image, or at another scale."
        )
    return int(outside)
