"""The labels that patches get from polygons."""

import json

import numpy as np

from bcgan.predict import tile
from bcgan.slides import annotations as qupath

DECISIONS = qupath.decide()


def feature(name: str, rings: list, geometry: str = "Polygon") -> dict:
    return {
        "type": "Feature", "geometry": {"type": geometry, "coordinates": rings},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }  # fmt: skip


def square(left: float, top: float, right: float, bottom: float) -> list:
    return [[[left, top], [right, top], [right, bottom], [left, bottom]]]


def annotation_file(tmp_path, *features: dict) -> qupath.AnnotationFile:
    path = tmp_path / "slide.geojson"
    path.write_text(json.dumps(features))
    return qupath.read_annotations(path)


def grid(columns: int, rows: int, size: int = 10) -> np.ndarray:
    return np.array([(x * size, y * size) for y in range(rows) for x in range(columns)])


def labels_of(annotations, corners, downsample=(1.0, 1.0), tissue=None, decisions=DECISIONS) -> list[int]:
    patches = np.full((len(corners), 10, 10, 3), 120, np.uint8)
    tissue = np.ones(patches.shape[:3], bool) if tissue is None else tissue
    return tile.label_patches(patches, corners, downsample, tissue, annotations, decisions).tolist()


def test_label_patches_innermost_polygon_decides(tmp_path):
    """Tumor around stroma around tumor, in any order of the file."""
    features = [
        feature("Tumor", square(20, 0, 30, 10)), feature("Stroma", square(10, 0, 40, 10)),
        feature("Tumor", square(0, 0, 50, 10)),
    ]  # fmt: skip
    for order in (features, features[::-1]):
        assert labels_of(annotation_file(tmp_path, *order), grid(6, 1)) == [1, 0, 1, 0, 1, 0]
    same = [feature("Tumor", square(0, 0, 10, 10)), feature("Stroma", square(0, 0, 10, 10))]
    assert labels_of(annotation_file(tmp_path, *same), grid(1, 1)) == [0]
    assert labels_of(annotation_file(tmp_path, *same[::-1]), grid(1, 1)) == [1]


def test_label_patches_hole_shows_what_lies_beneath(tmp_path):
    ring = square(10, 0, 40, 10) + square(20, 0, 30, 10)
    features = [feature("Stroma", ring), feature("Tumor", square(0, 0, 50, 10))]
    assert labels_of(annotation_file(tmp_path, *features), grid(6, 1)) == [1, 0, 1, 0, 1, 0]


def test_label_patches_multipolygon_part_inside_another_class_decides(tmp_path):
    """Each part is its own polygon: the small part lies on the stroma."""
    parts = [square(0, 0, 100, 10), square(120, 0, 130, 10)]
    features = [feature("Tumor", parts, "MultiPolygon"), feature("Stroma", square(110, 0, 150, 10))]
    assert labels_of(annotation_file(tmp_path, *features), grid(15, 1)) == [1] * 10 + [0, 0, 1, 0, 0]


def test_label_patches_ignored_tissue_is_left_out_and_does_not_vote(tmp_path):
    """Columns: half ignored; less than half ignored and the rest mostly malignant; the rest mostly benign."""
    features = [
        feature("Ignore*", square(0, 0, 5, 10)), feature("Tumor", square(5, 0, 10, 10)),
        feature("Ignore*", square(10, 0, 14, 10)), feature("Tumor", square(14, 0, 17, 10)),
        feature("Artefact*", square(20, 0, 24, 10)), feature("Tumor", square(24, 0, 26, 10)),
    ]  # fmt: skip
    assert labels_of(annotation_file(tmp_path, *features), grid(3, 1)) == [tile.EXCLUDED, 1, 0]


def test_label_patches_counts_tissue_alone(tmp_path):
    annotations = annotation_file(
        tmp_path, feature("Tumor", square(0, 0, 3, 10)), feature("Ignore*", square(10, 0, 13, 10))
    )
    tissue = np.zeros((2, 10, 10), bool)
    tissue[:, :, :6] = True
    assert labels_of(annotations, grid(2, 1), tissue=tissue) == [1, tile.EXCLUDED]
    tissue[:, :, :7] = True
    assert labels_of(annotations, grid(2, 1), tissue=tissue) == [0, 0]
    assert labels_of(annotations, np.zeros((0, 2), int)) == []


def test_label_patches_region_leaves_out_the_rest(tmp_path):
    features = [feature("Tumor", square(0, 0, 20, 10))]
    inside = square(10, 0, 30, 10)
    assert labels_of(annotation_file(tmp_path, *features), grid(4, 1)) == [1, 1, 0, 0]
    for name in ("Region*", "region*"):
        annotations = annotation_file(tmp_path, *features, feature(name, inside))
        assert labels_of(annotations, grid(4, 1)) == [-1, 1, 0, -1]
    decisions = qupath.decide(region=["Annotated area"])
    annotations = annotation_file(tmp_path, *features, feature("annotated Area", inside))
    assert labels_of(annotations, grid(4, 1), decisions=decisions) == [-1, 1, 0, -1]
    two = [feature("Region*", square(0, 0, 10, 10)), feature("Region*", square(5, 0, 15, 10))]
    assert labels_of(annotation_file(tmp_path, *features, *two), grid(4, 1)) == [1, -1, -1, -1]


def test_label_patches_outside_ignored(tmp_path):
    annotations = annotation_file(
        tmp_path, feature("Tumor", square(0, 0, 10, 10)), feature("Stroma", square(10, 0, 20, 10))
    )
    assert labels_of(annotations, grid(3, 1), decisions=qupath.decide(outside=qupath.IGNORED)) == [1, 0, -1]


def test_label_patches_scale_may_differ_by_axis(tmp_path):
    annotations = annotation_file(tmp_path, feature("Tumor", square(20, 0, 40, 30)))
    assert labels_of(annotations, grid(3, 2), (2.0, 3.0)) == [0, 1, 0, 0, 0, 0]


def test_fill_sets_pixels_by_their_centres():
    mask = np.zeros((6, 6), np.uint8)
    tile.fill_polygon(mask, [np.array([(0.4, 0.6), (3.4, 0.6), (3.4, 9.0), (0.4, 9.0)])], 1)
    assert mask.sum(0).tolist() == [5, 5, 5, 0, 0, 0] and not mask[0].any()
    tile.fill_polygon(mask, [np.array([(-5.0, -5.0), (1e9, -5.0), (1e9, 1e9), (-5.0, 1e9)])], 2)
    assert (mask == 2).all()
    tile.fill_polygon(mask, [np.array([(7.0, 7.0), (9.0, 7.0), (9.0, 9.0)])], 3)
    assert (mask == 2).all()


def test_fill_adjacent_polygons_share_no_pixel_and_leave_none_out():
    corner, total = np.array([20.3, 11.7]), np.zeros((40, 40), int)
    outline = np.array([(0, 0), (40, 0), (40, 40), (0, 40)], float)
    for start, end in zip(outline, np.roll(outline, -1, 0), strict=True):
        mask = np.zeros((40, 40), np.uint8)
        tile.fill_polygon(mask, [np.array([corner, start, end])], 1)
        total += mask
    assert (total == 1).all()


def test_fill_crossing_outline_is_even_odd():
    mask = np.zeros((10, 10), np.uint8)
    tile.fill_polygon(mask, [np.array([(0, 0), (10, 0), (0, 10), (10, 10)], float)], 1)
    assert mask[1, 5] and mask[8, 5] and not mask[5, 0] and not mask[5, 9]
