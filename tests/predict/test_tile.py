import importlib.util
import json
import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from bcgan import cli, data, experiment
from bcgan.data.idc.scan import records
from bcgan.data.slide_names import slide_names
from bcgan.errors import InputError
from bcgan.predict import slidewise, tile
from bcgan.preprocess import store
from bcgan.slides import annotations as qupath
from bcgan.slides.patches import read_patch
from bcgan.slides.reader import open_image
from bcgan.slides.scale import ModelScale, resolve_scale
from tests.conftest import write_png

OUTER = [[100, 100], [400, 100], [400, 400], [100, 400], [100, 100]]
HOLE = [[200, 200], [300, 200], [300, 300], [200, 300], [200, 200]]


def feature(kind: str, rings, geometry: str = "Polygon") -> dict:
    return {
        "type": "Feature", "geometry": {"type": geometry, "coordinates": rings},
        "properties": {"objectType": "annotation", "classification": {"name": kind}},
    }  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """Two slides of one patient and one of another, all tissue: with a malignant ring, no annotation, and no class."""
    rng = np.random.default_rng(0)
    for name, features in (
        ("P1_a.png", [feature("Tumor", [OUTER, HOLE]), feature("Stroma", [HOLE])]),
        ("P1_b.png", []),
        ("P2_a.png", [feature("TUMOR", [[OUTER], [[[450, 450], [500, 450], [500, 500], [450, 500]]]], "MultiPolygon"),
                      {"geometry": None, "properties": {}}]),
    ):  # fmt: skip
        write_png(tmp_path / "slides" / name, rng.integers(80, 200, (500, 520, 3), dtype=np.uint8))
        place = tmp_path / "annotations" / f"{name.removesuffix('.png')}.geojson"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return tmp_path


def job(source, out="out", mpp=4.0, **options) -> tile.TileJob:
    return tile.TileJob(source / out, source / "annotations", patient="^[^_]+", mpp=mpp, **options)


def outcome(done: int, skipped: int = 0, refused: int = 0) -> dict[str, int]:
    return {"done": done, "skipped": skipped, "unreadable": 0, "refused": refused}


def runners():
    yield from ("serial", "pool")
    missing = importlib.util.find_spec("apache_beam") is None
    yield pytest.param("beam", marks=pytest.mark.skipif(missing, reason="Apache Beam is not installed"))


@pytest.mark.parametrize("runner", runners())
def test_every_runner_writes_the_same_bytes_and_current_slides_are_skipped(source, runner):
    slides = slidewise.find_slides([str(source / "slides")])
    assert slidewise.run_job(slides, job(source), "serial", 1) == outcome(3)
    assert slidewise.run_job(slides, job(source, "other"), runner, 2) == outcome(3)
    serial_files, runner_files = (
        {path.name: path.read_bytes() for path in (source / out / "slides").glob("*.zip")} for out in ("out", "other")
    )
    assert serial_files == runner_files and len(serial_files) == 3
    assert slidewise.run_job(slides, job(source), runner, 2) == outcome(0, 3)
    os.utime(source / "annotations/P2_a.geojson", (0, 0))
    assert slidewise.run_job(slides, job(source), "serial", 1) == outcome(1, 2)
    for decisions in (
        qupath.decide(classes=["Stroma=malignant"]), qupath.decide(ignore=["Stroma"]),
        qupath.decide(region=["Stroma"]), qupath.decide(outside=qupath.IGNORED), qupath.decide(),
    ):  # fmt: skip
        assert slidewise.run_job(slides, job(source, decisions=decisions), "serial", 1)["done"] == 3, decisions
    same_decisions = qupath.decide(malignant=["tumor"])
    assert slidewise.run_job(slides, job(source, decisions=same_decisions), "serial", 1)["skipped"] == 3


def test_patches_are_labelled_by_polygons_and_read_as_records(source, monkeypatch):
    slidewise.run_job(slidewise.find_slides([str(source / "slides")]), job(source), "serial", 1)
    rows = records((source / "out",))
    ringed = {(record.x, record.y) for record in rows if record.patient == "P1" and record.label}
    inside = {(x, y) for x in range(100, 400, 50) for y in range(100, 400, 50)}
    assert ringed == inside - {(x, y) for x in (200, 250) for y in (200, 250)}
    malignant = {(record.x, record.y) for record in rows if record.patient == "P2" and record.label}
    assert malignant == inside | {(450, 450), (470, 450)}
    # 10 rows of 11: the last column ends where the image ends, and overlaps its neighbour.
    assert Counter(record.patient for record in rows) == {"P1": 220, "P2": 110}
    summary = (source / "out/summary.csv").read_text().splitlines()
    assert summary == [
        "slide,benign,malignant,left_out", "P1_a.png,78,32,0", "P1_b.png,110,0,0", "P2_a.png,72,38,0",
    ]  # fmt: skip


def test_the_tiled_experiment_trains_on_the_patches(source):
    """As in the README: slides of one patient have one role, and no two patches have the same coordinates."""
    for patient in range(3, 9):
        for kind, suffix in (("slides", "png"), ("annotations", "geojson")):
            shutil.copy(source / kind / f"P1_a.{suffix}", source / kind / f"P{patient}_a.{suffix}")
        image = np.random.default_rng(patient).integers(80, 200, (500, 520, 3), dtype=np.uint8)
        write_png(source / f"slides/P{patient}_a.png", image)
    slidewise.run_job(slidewise.find_slides([str(source / "slides")]), job(source), "serial", 1)
    (source / "store").mkdir()
    store.build(experiment.load("tiled", (), str(source / "out")), source / "store")
    index = store.load(source / "store").index
    assert len(index) == 9 * 110
    assert index.groupby("patient")["role"].nunique().max() == 1
    slides = index.assign(slide=slide_names(index, ()))
    assert slides.groupby("patient")["slide"].nunique().to_dict() == {"P1": 2} | {f"P{k}": 1 for k in range(2, 9)}
    assert not slides.duplicated(["slide", "x", "y"]).any()


def test_patches_are_cut_at_the_scale_that_is_given(source):
    """A slide with half the microns per pixel has a quarter of the patches."""
    slides = slidewise.find_slides([str(source / "slides")])
    slidewise.run_job(slides, job(source, mpp=2.0), "serial", 1)
    with zipfile.ZipFile(source / "out/slides/P1_a.png.zip") as archive:
        names = archive.namelist()
    assert len(names) == 5 * 6
    assert {name.split("_x")[1] for name in names if "/1/" in name} == {
        f"{x}_y{y}_class1.png" for x in (50, 100, 150) for y in (50, 100, 150) if (x, y) != (100, 100)
    }


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "annotations/P1_b.geojson").unlink(), "has no P1_b.png.geojson"),
        (lambda root: (root / "annotations/P1_b.geojson").write_text("[{]"), "no GeoJSON"),
        (lambda root: (root / "annotations/P1_b.geojson").write_text(json.dumps([feature("Tumor", 3, "Point")])),
         "has only a Point, which encloses no tissue"),
        (lambda root: (root / "slides/P1_b.png").write_bytes(b"no image"), "P1_b.png"),
        (lambda root: (root / "slides/P1_b.png").rename(root / "slides/_.png"), "no patient in _.png"),
        (lambda root: (root / "annotations/P1_b.geojson").write_text(json.dumps([feature("Tumor", [[]])])),
         "no GeoJSON"),
    ],
)  # fmt: skip
def test_a_slide_that_cannot_be_cut_is_named_and_the_others_are_cut(source, capsys, spoil, words):
    spoil(source)
    for counts in (
        "2 slides done, 0 were up to date",
        "0 slides done, 2 were up to date",
    ):  # the refused slide is not tried again
        assert run_tile(source, "--patient", "^[^_]+") == 3
        messages = capsys.readouterr().err
        assert "1 slides were refused" in messages and counts in messages
        assert words in messages or counts.startswith("0")
        assert words in (source / "out/summary.csv").read_text().replace('""', '"')
    assert len(list((source / "out/slides").glob("*.zip"))) == 2
    assert not list(source.rglob("*.part"))


def test_outputs_of_removed_slides_are_deleted_or_named(source, capsys):
    """Otherwise the tissue of a slide that was renamed would belong to two patients."""

    def run() -> tuple[int, str]:
        return run_tile(source), capsys.readouterr().err

    assert run()[0] == 0
    (source / "annotations/P1_b.geojson").unlink()
    assert run()[0] == 3
    assert {path.name for path in source.rglob("*.zip")} == {"P1_a.png.zip", "P2_a.png.zip"}
    for kind, suffix in (("slides", "png"), ("annotations", "geojson")):
        (source / kind / f"P2_a.{suffix}").rename(source / kind / f"P3_a.{suffix}")
    code, message = run()
    assert code == 3 and "P2_a.png.zip belongs to no slide of the sources (1 such files" in message


def test_an_image_larger_than_a_patch_and_a_half_is_cut_and_empty_glass_is_left_out(source):
    """The label is that of the pixels in the patch; a third coordinate of the polygons changes nothing."""
    image = np.full((80, 80, 3), 255, np.uint8)
    write_png(source / "slides/glass.png", image)
    image[:, :60] = (150, 80, 140)
    write_png(source / "slides/small.png", image)
    write_png(source / "slides/single.png", image[:70, :70])
    half = [[0, 0, 7.5], [30, 0, 7.5], [30, 80, 7.5], [0, 80, 7.5]]
    for name in ("glass", "small", "single"):
        (source / f"annotations/{name}.geojson").write_text(json.dumps(feature("tumor", [half])))
    slides = slidewise.find_slides([str(source / "slides")])
    slidewise.run_job(slides, job(source)._replace(patient=None), "serial", 1)
    with zipfile.ZipFile(source / "out/slides/small.png.zip") as archive:
        assert [name.split("_x")[1] for name in archive.namelist()] == [
            "0_y0_class1.png", "30_y0_class0.png", "0_y30_class1.png", "30_y30_class0.png",
        ]  # fmt: skip
    with zipfile.ZipFile(source / "out/slides/single.png.zip") as archive:
        assert [name.split("_x")[1] for name in archive.namelist()] == ["10_y10_class0.png"]  # its centre
    with zipfile.ZipFile(source / "out/slides/glass.png.zip") as archive:
        assert archive.namelist() == []


@pytest.mark.parametrize(
    ("name", "pattern", "patient"),
    [
        ("A-1_x.svs", "^[^_]+", "A-1"), ("A_1.svs", None, "A_1"), ("Müller.svs", None, "Müller"),
        ("A%5F1_idx7_x0_y0_class1.png", "^[^_]+", "A_1"), ("A%41_x.svs", "^[^_]+", "A%41"),
        ("P1_s3.svs", r"^(P\d+)_s(\d+)", "P1"), ("P1_b.svs", r"^(P\d+)(_[ab])?", "P1"),
        ("M\udcfc.svs", None, "M\\xfc"),
        ("P001.tif", "^[^_]+", "P001"), ("P001_2.ome.tif", "^[^_]+", "P001"), ("P001.ome.tif", None, "P001"),
        ("P001.TIFF", ".*", "P001"),
        ("b7.svs", r"^(a\d)|^(b\d)", "b7"),
    ],
)  # fmt: skip
def test_the_patient_is_found_in_the_name(name, pattern, patient):
    assert tile.find_patient(name, pattern) == patient


def test_a_name_without_a_patient_is_refused():
    with pytest.raises(ValueError, match="no patient in b.svs"):
        tile.find_patient("b.svs", "^(a)?")


def test_the_folder_of_a_mirax_slide_is_no_slide(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one.mrxs").write_bytes(b"")
    assert [slide.name for slide in slidewise.find_slides([str(tmp_path)])] == ["one.mrxs", "two"]
    assert [slide.name for slide in slidewise.find_slides([str(tmp_path)], folders=False)] == ["one.mrxs"]


def test_a_wrong_pattern_is_one_sentence_and_keeps_the_outputs(source, capsys):
    for pattern, code, words in (
        ("^[^_]+", 0, "3 slides done"),
        ("(", 2, "--patient: '(' is not a regular expression"),
        ("^Q", 2, "--patient: '^Q' matches none of 3 slides, such as P1_a.png. Change it."),
    ):
        assert run_tile(source, "--patient", pattern) == code
        assert words in capsys.readouterr().err
        assert len(list((source / "out/slides").glob("*.zip"))) == 3


def run_tile(source, *options: str) -> int:
    folders = [str(source / name) for name in ("slides", "annotations", "out")]
    arguments = ["tile", folders[0], "--annotations", folders[1], "--out", folders[2], "--mpp", "4"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, *options])
    return stop.value.code


def annotate(source, name: str, *features: dict) -> Path:
    path = source / "annotations" / f"{name}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def square(left: float, top: float, right: float, bottom: float) -> list:
    return [[[left, top], [right, top], [right, bottom], [left, bottom]]]


def test_tile_undecided_class_stops_before_anything_is_written(source, capsys):
    annotate(source, "P1_b", feature("Necrosis", square(0, 0, 100, 50)), feature("Immune cells: CD3", [HOLE]))
    annotate(source, "P2_a", feature("necrosis", square(0, 0, 10, 10)))
    assert run_tile(source) == 2
    printed = capsys.readouterr()
    assert "Necrosis (2 polygons, 5,100 slide pixels, in P1_b.geojson, P2_a.geojson)" in printed.err
    assert "Immune cells: CD3 (1 polygons, 10,000 slide pixels, in P1_b.geojson)" in printed.err
    assert '--class "Immune cells=benign"' in printed.err and '--ignore "Immune cells"' in printed.err
    assert [line.split()[-1] for line in printed.out.splitlines()] == [
        "label", "undecided", "undecided", "benign", "malignant",
    ]  # fmt: skip
    assert not (source / "out").exists()
    assert run_tile(source, "--dry-run") == 2
    assert run_tile(source, "--class", "Necrosis=benign", "--ignore", "immune cells") == 0
    rows = (source / "out/summary.csv").read_text().splitlines()
    assert rows[2:] == ["P1_b.png,106,0,4", "P2_a.png,110,0,0"]


def test_tile_dry_run_prints_the_table_and_writes_nothing(source, capsys):
    assert run_tile(source, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "class   polygons  area (slide pixels)  about patches  points and lines  files  label",
        "Stroma         1               10,000              4                 0      1  benign",
        "Tumor          3              172,500             69                 0      2  malignant",
    ]
    assert not (source / "out").exists()
    (source / "annotations/P1_b.geojson").unlink()
    assert run_tile(source, "--dry-run") == 3
    assert "has no P1_b.png.geojson" in capsys.readouterr().err


def test_tile_malignant_option_adds_to_the_defaults(source, capsys):
    annotate(source, "P1_b", feature("DCIS", [HOLE]), feature("Tumor", square(0, 0, 50, 50)))
    assert run_tile(source, "--malignant", "dcis", "--malignant", "Carcinoma") == 0
    assert "no annotation has the class 'carcinoma', which" in capsys.readouterr().err
    assert (source / "out/summary.csv").read_text().splitlines()[2] == "P1_b.png,105,5,0"
    assert run_tile(source, "--class", "DCIS=benign", "--malignant", "dcis") == 2
    assert "'dcis' is decided twice, benign and malignant" in capsys.readouterr().err


def test_tile_reports_objects_that_decide_nothing(source, capsys):
    plain = feature("", [HOLE])
    plain["properties"]["classification"] = None
    cell = feature("Tumor", [OUTER])
    cell["properties"]["objectType"] = "cell"
    annotate(source, "P1_b", plain, plain, cell, feature("Tumor", [OUTER]), feature("Tumor", [1, 2], "Point"))
    annotate(source, "P9_a", feature("Unheard of", [HOLE]))
    assert run_tile(source) == 0
    messages = capsys.readouterr().err
    assert "P1_b.geojson: 2 annotations without a class decide nothing" in messages
    assert "P1_b.geojson: these objects are skipped: 1 cell" in messages
    assert "P1_b.geojson: points and lines have no area and decide nothing: 1 Point of Tumor" in messages
    assert "P9_a.geojson belongs to no slide (1 such files" in messages


def test_tile_two_annotation_files_for_one_slide_are_refused(source, capsys):
    shutil.copy(source / "annotations/P1_b.geojson", source / "annotations/P1_b.png.GeoJSON")
    assert run_tile(source) == 2
    message = capsys.readouterr().err
    assert "P1_b.png.GeoJSON" in message and "P1_b.geojson both fit" in message
    assert not (source / "out").exists()


def test_tile_two_spellings_of_a_patient_are_refused(source, capsys):
    for folder, suffix in (("slides", "png"), ("annotations", "geojson")):
        (source / folder / f"P1_b.{suffix}").rename(source / folder / f"p1_b.{suffix}")
    assert run_tile(source, "--patient", "^[^_]+") == 2
    message = capsys.readouterr().err
    assert "P1" in message and "p1" in message
    assert "or change --patient" in message and "data.similar_patients" not in message  # a setting it does not have
    assert not (source / "out").exists()


def test_tile_slides_of_a_patient_with_and_without_a_further_part_are_of_one_patient(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("P001.png", "P001_2.png"):
        write_png(tmp_path / "slides" / name, rng.integers(80, 200, (50, 50, 3), dtype=np.uint8))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        annotate(tmp_path, name, feature("Tumor", square(0, 0, 50, 50)))
    assert run_tile(tmp_path, "--patient", "^[^_]+") == 0
    assert {row.patient for row in records((tmp_path / "out",))} == {"P001"}


@pytest.mark.parametrize(("size", "patch_mpp"), [(100, 2.0), (64, 4.0), (224, 0.5)])
def test_patches_of_any_size_and_scale_are_read_without_resizing(source, size, patch_mpp):
    """Slides at 0.5 or 2 microns; no patch is resized after it was cut."""
    slide_mpp = min(patch_mpp, 2.0)
    tile_job = job(source, mpp=slide_mpp, size=size, patch_mpp=patch_mpp, decisions=qupath.decide(ignore=["Stroma"]))
    slides = slidewise.find_slides([str(source / "slides")])
    assert slidewise.run_job(slides, tile_job, "serial", 1)["done"] == 3
    (source / "x.yaml").write_text(
        f"name: x\ndata: {{name: idc, dir: ['{source / 'out/slides'}'], size: {size}, mpp: {patch_mpp}}}\n"
        "preprocess: {audit: {duplicate: keep, blurred: keep}}\n"
    )
    settings = experiment.load(str(source / "x.yaml"))
    records = data.records(settings.data)
    assert {record.patient for record in records} == {"P1", "P2"}
    assert {record.mpp for record in records} == {patch_mpp}
    for record in records:
        image = read_patch_bytes(record.read())
        assert image.shape == (size, size, 3)
        for start, length in ((record.x, 520), (record.y, 500)):  # the last patch ends at the edge
            assert start % size == 0 or abs(start + size - length * slide_mpp / patch_mpp) <= 1
    if patch_mpp == slide_mpp:  # the pixels are the slide's
        slide_pixels = cv2.cvtColor(cv2.imread(str(source / "slides/P2_a.png")), cv2.COLOR_BGR2RGB)
        for record in (record for record in records if record.patient == "P2"):
            part = slide_pixels[record.y : record.y + size, record.x : record.x + size]
            np.testing.assert_array_equal(read_patch_bytes(record.read())[: len(part), : part.shape[1]], part)


def test_patches_state_their_scale_to_training_and_to_predict(source):
    """Training without data.mpp is refused, and predict takes a patch at the scale that its file states."""
    slides = slidewise.find_slides([str(source / "slides")])
    slidewise.run_job(slides, job(source, "small", mpp=2.0, patch_mpp=2.0), "serial", 1)
    (source / "store").mkdir()
    with pytest.raises(InputError, match=r"states 2 microns a pixel, and the scale of idc is 4 .*Set data\.mpp=2\."):
        store.build(experiment.load("tiled", (), str(source / "small")), source / "store")
    slidewise.run_job(slides, job(source, mpp=2.0, size=100, patch_mpp=2.0), "serial", 1)
    encoded = records((source / "out",))[0].read()
    fine, coarse = (ModelScale(100, 2.0, (100, 100), 1.0), ModelScale(50, 4.0, (50, 50), 1.0))
    pixels = read_patch_bytes(encoded)
    np.testing.assert_array_equal(read_patch(encoded, fine), pixels)
    np.testing.assert_array_equal(read_patch(encoded, coarse), cv2.resize(pixels, (50, 50), None, 0, 0, cv2.INTER_AREA))
    with open_image(encoded) as image:
        scale = resolve_scale(image.size, image.mpp, coarse, "a.png")
    assert (scale.mpp, scale.source, scale.is_single_patch) == ((2.0, 2.0), "PNG", True)


def read_patch_bytes(encoded: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
