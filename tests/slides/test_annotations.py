import json
from pathlib import Path

import pytest

from bcgan.errors import InputError
from bcgan.slides import annotation_table
from bcgan.slides import annotations as qupath
from bcgan.slides.annotation_checks import check_contents, count_polygons_outside
from bcgan.slides.annotations import BENIGN, IGNORED, MALIGNANT, REGION, UNDECIDED

RING = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
POLYGON = {"type": "Polygon", "coordinates": [RING]}
POINT = {"type": "Point", "coordinates": [3, 3]}


def feature(classification, geometry=POLYGON, **properties) -> dict:
    return {
        "type": "Feature", "id": "7f0f2f6a-0000", "geometry": geometry,
        "properties": {"objectType": "annotation", "classification": classification} | properties,
    }  # fmt: skip


@pytest.fixture
def read(tmp_path):
    def read(content, encoding="utf-8") -> qupath.AnnotationFile:
        path = tmp_path / "slide.geojson"
        path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
        return qupath.read_annotations(path)

    return read


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Tumor", MALIGNANT), (" tumour ", MALIGNANT), ("MALIGNANT", MALIGNANT), ("Tumor: Positive", MALIGNANT),
        ("tumor:Positive: Strong", MALIGNANT), ("Stroma", BENIGN), ("benign", BENIGN), ("Normal", BENIGN),
        ("Stroma: Tumor", BENIGN), ("Ignore*", IGNORED), ("Blood vessel*", IGNORED), ("Ignore*: Positive", IGNORED),
        ("Tumor: Artefact*", IGNORED), ("Region*", REGION), ("REGION*", REGION), ("Region*: a", REGION),
        ("Region", UNDECIDED), ("Necrosis", UNDECIDED), ("Immune cells", UNDECIDED), ("Other", UNDECIDED),
        ("Positive", UNDECIDED), ("Negative", UNDECIDED), ("Positive: Tumor", UNDECIDED), ("Tumor bed", UNDECIDED),
        ("Cancer", UNDECIDED),
    ],
)  # fmt: skip
def test_resolve_without_decisions(name, label):
    assert qupath.Decisions().resolve(name)[1] == label
    assert qupath.decide().resolve(name)[1] == label


def test_resolve_decision_of_a_derived_class_goes_first():
    decisions = qupath.decide(
        classes=["Tumor: In situ=benign", "M\u00fcllerian=MALIGNANT", "a=b=benign"], ignore=["Tumor: Necrotic"]
    )
    for name, label in (
        ("Tumor", MALIGNANT), ("Tumor: In situ", BENIGN), ("TUMOR:in situ: Positive", BENIGN),
        ("Tumor: Necrotic", IGNORED), ("Tumor: Positive", MALIGNANT), ("Mu\u0308llerian", MALIGNANT), ("A=B", BENIGN),
    ):  # fmt: skip
        assert decisions.resolve(name)[1] == label, name


def test_decide_goes_before_defaults():
    decisions = qupath.decide(
        classes=["Tumor=benign", "Ignore*=malignant"], ignore=["Region*"], malignant=["Stroma"], region=["Core"]
    )
    for name, label in (
        ("Tumor", BENIGN), ("Ignore*", MALIGNANT), ("Region*", IGNORED), ("Stroma", MALIGNANT), ("core", REGION),
    ):  # fmt: skip
        assert decisions.resolve(name)[1] == label, name
    assert qupath.decide(malignant=["DCIS"]).resolve("Tumor")[1] == MALIGNANT


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["Tumor"]}, "--class: 'Tumor' is not NAME=benign or NAME=malignant"),
        ({"classes": ["Tumor=bad"]}, "--class: 'Tumor=bad'"),
        ({"classes": ["=benign"]}, "--class: '' is an empty name"),
        ({"ignore": [" "]}, "--ignore: ' ' is an empty name"),
        ({"classes": ["A=benign", " a =malignant"]}, "'a' is decided twice, benign and malignant"),
        ({"classes": ["A=benign"], "ignore": ["a"]}, "--ignore: 'a' is decided twice, benign and ignored"),
        ({"malignant": ["A"], "region": ["A"]}, "--region: 'A' is decided twice, malignant and region"),
    ],
)
def test_decide_refuses_invalid_options(options, words):
    with pytest.raises(InputError, match=words):
        qupath.decide(**options)


def test_decide_same_decision_twice_is_one():
    decisions = qupath.decide(classes=["Tumor=malignant"], malignant=["tumor", "Tumor"])
    assert decisions.requested == ("tumor",) and decisions.labels == qupath.Decisions().labels


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor"), ({"name": "Tumor", "colorRGB": -3670016}, "Tumor"),
        ({"names": ["Tumor", "Positive"]}, "Tumor: Positive"), ({"name": None, "names": ["Tumor"]}, "Tumor"),
        ({"name": " Tumor "}, "Tumor"), ("Tumor", "Tumor"), ({"names": "Tumor"}, "Tumor"),
        ({"name": "Tumor: Positive", "names": ["Tumor", "Positive"]}, "Tumor: Positive"),
    ],
)  # fmt: skip
def test_read_class_in_every_form(read, classification, name):
    assert [polygon.name for polygon in read([feature(classification)]).polygons] == [name]


@pytest.mark.parametrize(
    "content",
    [
        feature(None), feature({}), feature({"name": None}), feature({"name": " "}), feature({"names": []}), POLYGON,
        {"type": "Feature", "geometry": POLYGON}, {"type": "Feature", "geometry": POLYGON, "properties": None},
    ],
)  # fmt: skip
def test_read_annotation_without_class_is_counted(read, content):
    annotations = read(content)
    assert annotations.unclassified == 1 and not annotations.polygons
    assert "1 annotations without a class decide nothing" in qupath.describe_unused(annotations)[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_read_every_container_in_every_encoding(read, encoding):
    tumor = feature({"name": "Tumör"})
    for content, num in (
        ({"type": "FeatureCollection", "features": [tumor, tumor]}, 2), ({"type": "FeatureCollection", "features": []},
        0), (tumor, 1), ([tumor, tumor], 2), ([], 0), ([{"type": "FeatureCollection", "features": [tumor]}], 1),
    ):  # fmt: skip
        assert [polygon.name for polygon in read(content, encoding).polygons] == ["Tumör"] * num


def test_read_geometries(read):
    several = {"type": "MultiPolygon", "coordinates": [[RING, HOLE], [HOLE]]}
    collection = {"type": "GeometryCollection", "geometries": [POLYGON, POINT, {**POINT, "type": "MultiPoint"},
                  {"type": "GeometryCollection", "geometries": [several]}]}  # fmt: skip
    annotations = read([
        feature("a", several), feature("b", collection), feature("c", None), feature("d", {"type": "Polygon",
        "coordinates": []}), feature("e", {"type": "Polygon", "coordinates": [[[*point, 7.5] for point in RING[:-1]]]}),
    ])  # fmt: skip
    assert [(polygon.name, len(polygon.rings), polygon.area) for polygon in annotations.polygons] == [
        ("a", 2, 96), ("a", 1, 4), ("b", 1, 100), ("b", 2, 96), ("b", 1, 4), ("e", 1, 100),
    ]  # fmt: skip
    assert annotations.shapes == {("b", "Point"): 1, ("b", "MultiPoint"): 1}
    assert annotations.skipped == {"without a geometry": 2}


def test_read_skips_objects_that_are_no_annotations(read):
    kinds = ["annotation", None, "unknown", "Detection", "cell", "cell", "tile", "tmaCore", "tma_core"]
    features = [feature({"name": "Tumor"}, objectType=kind) for kind in kinds]
    old = [
        {**feature({"name": "Tumor"}, objectType=None), "id": f"Path{kind}Object"} for kind in ("Annotation", "Cell")
    ]
    annotations = read(features + old)
    assert len(annotations.polygons) == 4
    assert annotations.skipped == {"detection": 1, "cell": 3, "tile": 1, "tmacore": 2}
    assert qupath.describe_unused(annotations)[0].endswith("skipped: 3 cell, 1 detection, 1 tile, 2 tmacore")


@pytest.mark.parametrize(
    "content",
    [
        {}, 3, "features", {"features": None}, {"type": "Topology"}, [3], feature({"name": 3}), feature(3),
        feature("a", {"type": "Circle"}), feature("a", {"type": "Polygon"}), feature("a", {"coordinates": [RING]}),
        feature("a", {**POLYGON, "coordinates": [RING[:2]]}), feature("a", {**POLYGON, "coordinates": [[]]}),
        feature("a", {**POLYGON, "coordinates": [[[0, 0], [1, float("nan")], [1, 1]]]}),
        feature("a", {**POLYGON, "coordinates": [[[0, 0], [1, float("inf")], [1, 1]]]}),
        feature("a", {**POLYGON, "coordinates": [[[0, 0], [1, 10**400], [1, 1]]]}),
        feature("a", {**POLYGON, "coordinates": [[[0], [1], [1]]]}), feature("a", {**POLYGON, "coordinates": RING}),
    ],
)  # fmt: skip
def test_read_refuses_invalid_geojson(read, content):
    with pytest.raises(ValueError, match=r"slide\.geojson is no GeoJSON of polygons as QuPath writes it"):
        read(content)


@pytest.mark.parametrize("content", [b"", b"[{]", b"\xff\xfe\xfd", b"[" * 100_000])
def test_read_refuses_invalid_json(tmp_path, content):
    path = tmp_path / "slide.geojson"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"slide\.geojson is no GeoJSON"):
        qupath.read_annotations(path)


def test_check_areas_malignant_class_needs_a_polygon(read):
    decisions = qupath.decide(classes=["Tumor: In situ=malignant"])
    line = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    qupath.check_areas(read([feature("Stroma", line), feature("Other", POINT)]), decisions)
    qupath.check_areas(read([feature("Tumor"), feature("tumor", POINT), feature("Tumor: Positive", POINT)]), decisions)
    for features in ([feature("Tumor", line)], [feature("Tumor"), feature("Tumor: In situ", line)]):
        with pytest.raises(
            InputError, match=r"slide\.geojson: the malignant class .* has only a LineString, .*\. Draw a polygon"
        ):
            qupath.check_areas(read(features), decisions)


@pytest.mark.parametrize(
    ("slide", "name"),
    [
        ("S.ome.tif", "S.ome.tif.geojson"), ("S.ome.tif", "S.ome.geojson"), ("S.ome.tif", "S.geojson"),
        ("S.svs", "S.svs.GEOJSON"), ("S.svs", "S.GeoJson"), ("S.svs", "S.json"), ("S.NDPI", "S.geojson"),
        ("S.1.svs", "S.1.geojson"), ("M\u00fc.svs", "Mu\u0308.geojson"),
    ],
)  # fmt: skip
def test_find_annotation(tmp_path, slide, name):
    assert qupath.find_annotation(tmp_path, slide) is None
    for file_name in (name, "T.geojson", "S.1.2.geojson", "._S.geojson", "S.txt"):
        (tmp_path / file_name).write_text("[]")
    assert qupath.find_annotation(tmp_path, slide) == tmp_path / name
    assert qupath.find_orphans(tmp_path, [slide]) == [tmp_path / "S.1.2.geojson", tmp_path / "T.geojson"]


@pytest.mark.parametrize("names", [("S.svs.geojson", "S.geojson"), ("S.geojson", "S.GEOJSON"), ("S.json", "S.geojson")])
def test_find_annotation_refuses_two_files(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("[]")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes both names for one")
    with pytest.raises(InputError, match=r"S\.svs: .* and .* both fit\. Remove or rename one of them\.") as error:
        qupath.find_annotation(tmp_path, "S.svs")
    assert all(name in str(error.value) for name in names)


def test_class_table_sums_over_files(read):
    first = read([feature("Tumor"), feature("Tumor: Positive"), feature("Ignore*", POINT), feature("Necrosis")])
    second = first._replace(path=Path("second.geojson"))
    decisions = qupath.decide(classes=["Unheard of=benign"], ignore=["necrosis"], malignant=["Tumor", "positive"])
    rows = annotation_table.class_table([first, second], decisions)
    assert [(row.name, row.polygons, row.area, row.shapes, len(row.files), row.label) for row in rows] == [
        ("Ignore*", 0, 0, 2, 2, IGNORED), ("Necrosis", 2, 200, 0, 2, IGNORED), ("Tumor", 2, 200, 0, 2, MALIGNANT),
        ("Tumor: Positive", 2, 200, 0, 2, MALIGNANT),
    ]  # fmt: skip
    assert annotation_table.find_unused_decisions(rows, decisions) == ["positive", "unheard of"]
    lines = annotation_table.format_table(rows).splitlines()
    assert len(lines) == 5 and len({line.index(row.label) for line, row in zip(lines[1:], rows, strict=True)}) == 1
    annotation_table.check_decided(rows)
    with pytest.raises(
        InputError, match=r"Necrosis \(2 polygons, 200 slide pixels, in slide.geojson, second.geojson\)"
    ):
        annotation_table.check_decided(annotation_table.class_table([first, second], qupath.Decisions()))


def test_class_table_escapes_unprintable_characters(tmp_path):
    path = tmp_path / "slide.geojson"
    path.write_text(json.dumps([feature({"name": "a\nb\ud800"})]))  # \ud800 is no character
    text = annotation_table.format_table(
        annotation_table.class_table([qupath.read_annotations(path)], qupath.Decisions())
    )
    assert "a\\nb\\ud800" in text and text.encode()


def test_check_decided_lists_few_files(read):
    annotations = read(feature("Other"))
    rows = annotation_table.class_table(
        [annotations._replace(path=Path(f"{k}.geojson")) for k in range(5)], qupath.Decisions()
    )
    with pytest.raises(InputError, match=r"in 0\.geojson, 1\.geojson, 2\.geojson and 2 more\)"):
        annotation_table.check_decided(rows)


def box(low: int, high: int) -> dict:
    return {"type": "Polygon", "coordinates": [[[low, low], [high, low], [high, high], [low, high], [low, low]]]}


def test_polygons_of_another_scale_are_refused(read):
    annotations = read([feature({"name": "Tumor"}, box(2000, 3000))])
    with pytest.raises(ValueError, match=r"all 1 polygons lie outside of the image of 800x800 pixels, x from 2,000"):
        count_polygons_outside(annotations, (800, 800))
    both = read([feature({"name": "Tumor"}, box(2000, 3000)), feature({"name": "Tumor"})])
    assert count_polygons_outside(both, (800, 800)) == 1
    assert count_polygons_outside(read([]), (800, 800)) == 0


def test_a_file_that_annotates_nothing_is_refused_and_an_empty_one_is_not(read):
    check_contents(read([]), qupath.Decisions())
    with pytest.raises(ValueError, match="1 objects and no annotation with a class"):
        check_contents(read([feature(None)]), qupath.Decisions())


def test_a_polygon_of_two_labels_is_refused(read):
    features = [feature({"name": name}) for name in ("Tumor", "Stroma")]
    with pytest.raises(ValueError, match=r"the same polygon as Tumor \(malignant\) and as Stroma \(benign\)"):
        check_contents(read(features), qupath.Decisions())
    check_contents(read([features[0], features[0]]), qupath.Decisions())


L_SHAPE = [[0, 0], [9, 0], [9, 4], [5, 4], [5, 8], [0, 8]]
SAME_RINGS = {
    "another start": [*L_SHAPE[2:], *L_SHAPE[:2], L_SHAPE[2]], "reversed": [*L_SHAPE[::-1], L_SHAPE[-1]],
    "reversed, another start": [*L_SHAPE[3::-1], *L_SHAPE[:3:-1], L_SHAPE[3]],
    "not closed": L_SHAPE, "a repeated point": [*L_SHAPE[:2], *L_SHAPE[1:], L_SHAPE[0]],
    "a point on an edge": [[0, 0], [3, 0], *L_SHAPE[1:], [0, 0]], "rounded": [[x + 1e-5, y - 1e-5] for x, y in L_SHAPE],
}  # fmt: skip
OTHER_RINGS = {
    "a corner moved": [*L_SHAPE[:-1], [0, 9]], "other order": [L_SHAPE[0], L_SHAPE[2], L_SHAPE[1], *L_SHAPE[3:]],
    "mirrored": [[y, x] for x, y in L_SHAPE],
}  # fmt: skip


def ring_features(ring: list, other: list) -> list[dict]:
    rings = {"Tumor": [*ring, ring[0]], "Stroma": other}
    return [feature({"name": name}, {"type": "Polygon", "coordinates": [points]}) for name, points in rings.items()]


@pytest.mark.parametrize("other", SAME_RINGS)
def test_a_ring_of_two_labels_is_refused_however_it_is_drawn(read, other):
    features = ring_features(L_SHAPE, SAME_RINGS[other])
    for order in (features, features[::-1]):
        with pytest.raises(ValueError, match=r"has the same polygon as .* and as .*Remove one of them"):
            check_contents(read(order), qupath.Decisions())


@pytest.mark.parametrize("other", OTHER_RINGS)
def test_another_ring_of_the_same_corners_may_have_another_label(read, other):
    check_contents(read(ring_features(L_SHAPE, OTHER_RINGS[other])), qupath.Decisions())


@pytest.mark.parametrize(
    ("plane", "is_read"),
    [
        ({}, True),
        ({"c": -1, "z": 0, "t": 0}, True),
        ({"c": 1, "z": 0, "t": 0}, True),
        ({"z": 3}, False),
        ({"z": 0, "t": 2}, False),
    ],
)
def test_annotations_of_another_plane_than_the_one_that_is_read_are_skipped(read, plane, is_read):
    annotations = read([feature("a", {**POLYGON, "plane": plane}), feature("a", POLYGON)])
    assert len(annotations.polygons) == 1 + is_read
    assert any("skipped: 1 on another plane" in text for text in qupath.describe_unused(annotations)) != is_read
