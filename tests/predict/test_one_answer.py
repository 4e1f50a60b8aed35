"""The same image in every container format gets the same rows from every command and from Python."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from bcgan import cli
from bcgan.errors import InputError
from bcgan.predict import serve, slidewise
from bcgan.predict.batch import PredictJob
from bcgan.predict.predict import predict
from bcgan.predict.tile import TileJob
from bcgan.slides.annotations import Decisions
from bcgan.slides.files import find_images
from bcgan.slides.mpp_table import MppChoice
from tests.slides import containers
from tests.slides.containers import COLUMNS, FLAT, LOSSY, ROWS, SIZE, STATES_MPP

MPP = 2.0
STEP = 2  # pixels of the image for one pixel at the model's scale
COORDS = [(x * SIZE * STEP, y * SIZE * STEP) for y in range(ROWS) for x in range(COLUMNS)]
LOSSY_TOLERANCE = 0.05  # of a probability


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """A folder with the picture in every container, one of them in an archive too, and a table of resolutions."""
    root = tmp_path_factory.mktemp("cohort")
    image = containers.enlarge(containers.picture(), STEP, STEP)
    for name in (*STATES_MPP, *FLAT):
        containers.write(root / "slides" / name, image, (MPP, MPP))
    (root / "mpp.csv").write_text("file,mpp\n" + "".join(f"{name},{MPP}\n" for name in FLAT), "utf-8")
    (root / "annotations").mkdir()
    left = [[0, 0], [100, 0], [100, 200], [0, 200], [0, 0]]
    feature = {
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [left]},
        "properties": {"classification": {"name": "Tumor"}},
    }  # fmt: skip
    for name in (*STATES_MPP, *FLAT):
        (root / "annotations" / f"{name}.geojson").write_text(json.dumps(feature), "utf-8")
    return root


@pytest.fixture(scope="module")
def expected(model, cohort) -> dict[tuple[int, int], dict]:
    rows = model.predict_image(cohort / "slides" / "tiles.tif")
    assert len({row["label"] for row in rows}) >= 1
    return {(row["x"], row["y"]): row for row in rows}


def assert_same(rows: list[dict], expected: dict, name: str) -> None:
    """The coordinates, labels and probabilities are equal, except for the changes of a lossy format."""
    assert [(int(row["x"]), int(row["y"])) for row in rows] == COORDS
    tolerance = LOSSY_TOLERANCE if name in LOSSY else 1e-6
    for row in rows:
        reference = expected[int(row["x"]), int(row["y"])]
        if reference["probability"] is None or not row["probability"]:
            assert not row["probability"] and reference["probability"] is None
        else:
            assert float(row["probability"]) == pytest.approx(reference["probability"], abs=tolerance)
        if name not in LOSSY:
            assert (row["label"] or None, row["verdict"]) == (reference["label"], reference["verdict"])
        assert float(row["mpp"]) == pytest.approx(MPP, rel=1e-4)
        assert row["mpp_source"] == "user" if name in FLAT else row["mpp_source"] in ("TIFF", "OME", "ImageJ", "DICOM")


def by_file(text: str) -> dict[str, list[dict]]:
    rows: dict[str, list[dict]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        rows.setdefault(Path(row["path"]).name, []).append(row)
    return rows


def test_predict_and_batch_agree_on_every_container(model, exported, cohort, expected, tmp_path):
    images, out = find_images([str(cohort / "slides")]), io.StringIO()
    predict(model, images, out, False, MppChoice(table=cohort / "mpp.csv"))
    rows = by_file(out.getvalue())
    assert set(rows) == {*STATES_MPP, *FLAT}
    job = PredictJob(tmp_path / "out", str(exported), mpp_table=cohort / "mpp.csv")
    counts = slidewise.run_job(slidewise.find_slides([str(cohort / "slides")]), job, "serial", 1)
    assert counts == {"done": len(rows), "skipped": 0, "unreadable": 0, "refused": 0}
    for name, predicted in rows.items():
        assert_same(predicted, expected, name)
        batched = by_file((tmp_path / "out" / "slides" / f"{name}.csv").read_text("utf-8"))
        assert_same(batched[name], expected, name)


@pytest.mark.parametrize("name", [*STATES_MPP, *FLAT])
def test_python_and_the_server_agree(model, cohort, expected, name, monkeypatch):
    path, mpp = cohort / "slides" / name, MPP if name in FLAT else None
    assert_same(model.predict_image(path, mpp), expected, name)
    assert_same(model.predict_image(path.read_bytes(), mpp), expected, name)
    monkeypatch.setattr(serve.maps, "draw_map", lambda target, *_: target.write(b"a picture"))
    client = TestClient(serve.make_app(model))
    query = {"mpp": mpp} if mpp else {}
    answer = client.post("/predict", params=query, content=path.read_bytes()).json()
    assert_same(answer["rows"], expected, name)
    assert answer["scale"].startswith(f"Read at {MPP:g} microns a pixel")


def test_tile_cuts_the_same_labelled_patches(cohort, tmp_path):
    job = TileJob(tmp_path / "out", cohort / "annotations", Decisions(), mpp_table=cohort / "mpp.csv")
    slidewise.run_job(slidewise.find_slides([str(cohort / "slides")], folders=False), job, "serial", 1)
    pixels: dict[str, dict[str, bytes]] = {}
    for name in (*STATES_MPP, *FLAT):
        with zipfile.ZipFile(tmp_path / "out" / "slides" / f"{name}.zip") as archive:
            pixels[name] = {member.split("_x")[1]: archive.read(member) for member in archive.namelist()}
        places = {f"{x}_y{y}_class{int(x < 50)}.png" for x in range(0, 150, 50) for y in range(0, 100, 50)}
        assert set(pixels[name]) == places, name


def test_an_archive_is_read_as_a_folder_is(model, cohort, expected, tmp_path):
    data = (cohort / "slides" / "ome_strips.ome.tif").read_bytes()
    path, out = containers.zipped(tmp_path / "a.zip", "inside/slide.ome.tif", data), io.StringIO()
    predict(model, find_images([str(path)]), out, True)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {row["path"] for row in rows} == {f"{path}!inside/slide.ome.tif"}
    assert_same(rows, expected, "ome_strips.ome.tif")


@pytest.mark.parametrize("name", ["flat.png", "tiles.tif", "ome_strips.ome.tif"])
@pytest.mark.parametrize("colour", [255, 214, 0])
def test_an_image_without_tissue_has_no_call_anywhere(model, tmp_path, name, colour):
    """As a single patch and as a large image; by the command, from Python and through the server."""
    for side in (SIZE, 4 * SIZE):
        image = np.full((side, side, 3), colour, np.uint8)
        path = containers.write(tmp_path / str(side) / name, image, (4.0, 4.0))
        mpp, out = 4.0 if name in FLAT else None, io.StringIO()
        counts = predict(model, find_images([str(path)]), out, True, MppChoice(mpp))
        assert list(counts.values()) == [{"no_tissue": 1}]
        (row,) = model.predict_image(path, mpp)
        assert json.loads(out.getvalue()) == row
        assert (row["verdict"], row["label"], row["probability"], row["uncertainty"]) == ("no_tissue", None, None, None)
        query = {"mpp": mpp} if mpp else {}
        answer = TestClient(serve.make_app(model)).post("/predict", params=query, content=path.read_bytes())
        assert answer.status_code == 200
        assert [row["verdict"] for row in answer.json()["rows"]] == ["no_tissue"]
    patches = np.full((2, SIZE, SIZE, 3), colour, np.uint8)
    predictions = model.predict(patches)
    assert (predictions.called == -1).all() and np.isnan(predictions.probability).all()


@pytest.mark.parametrize("mpp", [0, 0.0, -1, float("nan"), float("inf")])
def test_a_resolution_that_is_no_positive_number_is_refused(model, cohort, mpp):
    """Zero is not the same as none given."""
    with pytest.raises(InputError) as error:
        model.predict_image(cohort / "slides" / "tiles.tif", mpp)
    assert str(error.value) == f"mpp: {mpp} is no number of microns per pixel. Give a positive one, or none."


def test_every_command_refuses_an_image_without_a_scale(model, cohort, exported, tmp_path, capsys):
    path = cohort / "slides" / "flat.png"
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "flat.png").write_bytes(path.read_bytes())
    words, out = "states no resolution", str(tmp_path / "out")
    annotations = ["--annotations", str(cohort / "annotations")]
    for arguments in (
        ["predict", str(path), "--out", f"{out}.csv"],
        ["tile", str(tmp_path / "s"), *annotations, "--out", f"{out}-tile"],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        message = capsys.readouterr().err
        assert stop.value.code == 3 and words in message and "--mpp" in message
        assert "again" not in message
    with pytest.raises(ValueError, match=words):
        model.predict_image(path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain", str(path), "--out", out])
    assert stop.value.code == 3 and words in capsys.readouterr().err
    answer = TestClient(serve.make_app(model)).post("/predict", content=path.read_bytes())
    assert answer.status_code == 422 and words in answer.json()["detail"]
