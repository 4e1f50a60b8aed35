import csv
import importlib.util
import json
import os
import shutil
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from bcgan import cli
from bcgan.errors import InputError, WorkError
from bcgan.predict import batch, slidewise
from bcgan.predict.model import VERDICTS
from tests.conftest import write_png

SLIDES = 3  # folders of patches; the source also has one large image
MPP = 4.0  # of all slides: the large image does not state it


@pytest.fixture
def source(idc_folder, tmp_path):
    place = tmp_path / "slides"
    for patient in sorted(idc_folder.iterdir())[:SLIDES]:
        shutil.copytree(patient, place / patient.name)
    image = np.full((130, 220, 3), 255, np.uint8)
    image[:100, 50:150] = (150, 80, 140)
    write_png(place / "large.png", image)
    (place / "notes.txt").write_text("no slide")
    return place


def job(exported, out) -> batch.PredictJob:
    return batch.PredictJob(out, str(exported), mpp=MPP)


def written(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def outcome(done: int, skipped: int = 0, unreadable: int = 0, refused: int = 0) -> dict[str, int]:
    return {"done": done, "skipped": skipped, "unreadable": unreadable, "refused": refused}


def runners():
    yield from ("serial", "pool")
    missing = importlib.util.find_spec("apache_beam") is None
    yield pytest.param("beam", marks=pytest.mark.skipif(missing, reason="Apache Beam is not installed"))


@pytest.mark.parametrize("runner", runners())
def test_every_runner_writes_the_same_bytes(exported, source, tmp_path, runner):
    slides = slidewise.find_slides([str(source)])
    assert [slide.name for slide in slides] == ["100", "101", "102", "large.png"]
    assert slidewise.run_job(slides, job(exported, tmp_path / "one"), "serial", 1) == outcome(4)
    assert slidewise.run_job(slides, job(exported, tmp_path / "other"), runner, 2) == outcome(4)
    assert written(tmp_path / "one") == written(tmp_path / "other")
    assert not list(tmp_path.rglob("*.part"))
    rows = list(csv.DictReader((tmp_path / "other/slides/101.csv").open(encoding="utf-8")))
    assert len(rows) == len(list((source / "101").rglob("*.png")))
    summary = {row["slide"]: row for row in csv.DictReader((tmp_path / "other/summary.csv").open(encoding="utf-8"))}
    assert sum(int(summary["101"][verdict]) for verdict in VERDICTS) == len(rows)


def test_maps_are_written_to_one_folder_per_slide_on_request(exported, source, tmp_path):
    def list_maps(*options) -> set[str]:
        arguments = ["batch", str(source), "--model", str(exported), "--out", str(tmp_path / "out"), "--mpp", str(MPP)]
        with pytest.raises(SystemExit) as stop:
            cli.main([*arguments, *options])
        assert stop.value.code == 0
        maps = tmp_path / "out/maps"
        return {str(path.relative_to(maps)) for path in maps.rglob("*.map.png")}

    for name in ("100", "101"):
        shutil.rmtree(source / name)
    assert list_maps() == set()
    assert list_maps("--maps") == {"102/102_idx5.map.png", "large.png/large.png.map.png"}
    for path in (source / "102").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("_idx5", "_idx6")))
    assert list_maps("--maps") == {"102/102_idx6.map.png", "large.png/large.png.map.png"}


def test_only_changed_slides_are_predicted_again(exported, source, tmp_path):
    predict_job, slides = job(exported, tmp_path / "out"), slidewise.find_slides([str(source)])
    slidewise.run_job(slides, predict_job, "serial", 1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/slides").glob("*.csv")}
    assert slidewise.run_job(slides, predict_job, "serial", 1) == outcome(0, 4)
    os.utime(next((source / "100").rglob("*.png")), (0, 0))
    (tmp_path / "out/slides/101.csv").unlink()
    (tmp_path / "out/slides/102.json").write_text("{")
    assert slidewise.run_job(slides, predict_job, "serial", 1) == outcome(3, 1)
    same = [path.name for path, time in before.items() if path.stat().st_mtime_ns == time]
    assert same == ["large.png.csv"]
    assert slidewise.run_job(slides, predict_job._replace(mpp=2.0), "serial", 1)["done"] == 4


@pytest.mark.parametrize("change", [
    {"microns_per_pixel": 2.0}, {"min_tissue": 0.5}, {"ood_threshold": 0.1}, {"thresholds": {"malignant": 0.99}},
    {"calibration": {"temperature": 3.0}},
])  # fmt: skip
def test_another_card_makes_all_rows_stale(exported, source, tmp_path, change):
    """The networks are the same; the calibration, a threshold or the scale is not."""
    model = shutil.copytree(exported, tmp_path / "model")
    slides = slidewise.find_slides([str(source)])
    assert slidewise.run_job(slides, job(model, tmp_path / "out"), "serial", 1) == outcome(4)
    card = json.loads((model / "classifier.json").read_text("utf-8"))
    for key, value in change.items():
        card[key] = card[key] | value if isinstance(value, dict) else value
    (model / "classifier.json").write_text(json.dumps(card), "utf-8")
    batch._load_model.cache_clear()
    assert slidewise.run_job(slides, job(model, tmp_path / "out"), "serial", 1) == outcome(4)
    assert slidewise.run_job(slides, job(model, tmp_path / "fresh"), "serial", 1) == outcome(4)
    assert written(tmp_path / "out") == written(tmp_path / "fresh")


def test_results_beside_the_slides_are_no_slide(exported, source, monkeypatch, capsys):
    """Nor is a folder without images the end of all others: it is refused, and they are scored."""
    monkeypatch.chdir(source)
    (source / "empty").mkdir()
    for done in (4, 0):
        with pytest.raises(SystemExit) as stop:
            cli.main(["batch", ".", "--model", str(exported), "--mpp", str(MPP), "--maps"])
        assert stop.value.code == 3
        messages = capsys.readouterr().err
        assert f"{done} slides done, {4 - done} were up to date" in messages
        assert "empty: no image there" in messages
    rows = list(csv.DictReader((source / "scores/summary.csv").open(encoding="utf-8")))
    assert [row["slide"] for row in rows] == ["100", "101", "102", "empty", "large.png"]
    assert list((source / "scores/maps").glob("*"))


def test_a_name_may_be_as_long_as_the_file_system_allows(exported, source, tmp_path):
    image = source / f"{'é' * 120}slide.png"  # 249 bytes; results have a longer suffix, and maps a much longer one
    (source / "large.png").rename(image)
    for name in ("100", "101", "102"):
        shutil.rmtree(source / name)
    predict_job = job(exported, tmp_path / "out")._replace(maps=True)
    assert slidewise.run_job(slidewise.find_slides([str(source)]), predict_job, "serial", 1) == outcome(1)
    assert (tmp_path / "out/slides" / f"{image.name}.csv").read_text("utf-8").count("\n") == 7
    names = sorted(path.name for path in (tmp_path / "out/maps").rglob("[!.]*.*") if path.is_file())
    assert [name[-8:] for name in names] == [".geojson", "heat.png", ".map.png"]
    assert len({name.split(".")[0] for name in names}) == 1


def test_a_slide_that_fails_is_named_and_the_others_are_kept(exported, source, tmp_path, monkeypatch):
    predict = batch.predict

    def failing(model, images, *rest, **options):
        if images[0].local.parts[-3] == "101":
            raise MemoryError
        return predict(model, images, *rest, **options)

    predict_job, slides = job(exported, tmp_path / "out"), slidewise.find_slides([str(source)])
    monkeypatch.setattr(batch, "predict", failing)
    with pytest.raises(WorkError, match="1 of 4 slides failed, first 101"):
        slidewise.run_job(slides, predict_job, "serial", 1)
    monkeypatch.undo()
    assert slidewise.run_job(slides, predict_job, "serial", 1) == outcome(1, 3)
    state = json.loads((tmp_path / "out/slides/101.json").read_text())
    assert sum(state["patches"].get(verdict, 0) for verdict in VERDICTS) == 10


def test_a_dead_worker_is_reported_with_the_remedy(exported, source, tmp_path, monkeypatch):
    class Dead(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
            return future

    monkeypatch.setattr(slidewise, "ProcessPoolExecutor", lambda *_, **__: Dead())
    with pytest.raises(WorkError, match="worker process died.*fewer --workers"):
        slidewise.run_job(slidewise.find_slides([str(source)]), job(exported, tmp_path / "out"), "pool", 2)


def test_wrong_sources_are_named(tmp_path, source):
    for wrong, words in (([str(tmp_path / "nowhere")], "is no folder"), ([str(source / "100/0")] * 2, "the same name")):
        with pytest.raises(InputError, match=words):
            slidewise.find_slides(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no slide there"):
        slidewise.find_slides([str(tmp_path / "empty")])


def test_the_command_reports_what_it_did(exported, source, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    out = ["--model", str(exported), "--out", str(tmp_path / "out"), "--mpp", str(MPP)]
    for options, code, words in (
        (["--runner", "beam"], 2, "pip install -r requirements-beam.txt"),
        ([], 0, "4 slides done, 0 were up to date"),
        ([], 0, "0 slides done, 4 were up to date"),
        (["--no-spatial-context"], 0, "4 slides done, 0 were up to date"),
        ([], 0, "4 slides done, 0 were up to date"),
        (None, 3, "1 slides have patches that could not be read, 0 slides were refused"),
        ([], 3, "1 slides have patches that could not be read, 0 slides were refused"),
    ):
        if options is None:
            next((source / "100").rglob("*.png")).write_bytes(b"no image")
            options = []
        with pytest.raises(SystemExit) as stop:
            cli.main(["batch", str(source), *out, *options])
        assert stop.value.code == code
        messages = capsys.readouterr().err
        assert words in messages
        if code != 2:
            assert "batch: a patch by itself is " in messages
            rows = [row for path in (tmp_path / "out/slides").glob("*.csv") for row in csv.DictReader(path.open())]
            assert ("1 unreadable; Research use only" in messages) == (code == 3)
            num_scored = sum(row["verdict"] == "scored" for row in rows)
            assert f"batch: {num_scored} scored" in messages or not num_scored


def test_a_slide_that_cannot_be_predicted_is_refused_once_with_its_reason(exported, source, tmp_path, capsys):
    """One resolution is given for images of two magnifications. The slide is not tried again until it changes."""
    names = [f"SOB_M_DC-14-2523-{magnification}-001.png" for magnification in (40, 400)]
    for name in names:
        write_png(source / "mixed" / name, np.full((50, 50, 3), (150, 80, 140), np.uint8))
    slides = slidewise.find_slides([str(source)])
    reason = "--mpp 4 is given for images of several magnifications: 40X"
    for expected in (outcome(4, 0, refused=1), outcome(0, 4, refused=1)):
        assert slidewise.run_job(slides, job(exported, tmp_path / "out"), "serial", 1) == expected
        assert reason in json.loads((tmp_path / "out/slides/mixed.json").read_text())["refused"]
        summary = {row["slide"]: row for row in csv.DictReader((tmp_path / "out/summary.csv").open(encoding="utf-8"))}
        assert reason in summary["mixed"]["refused"] and not summary["101"]["refused"]
        assert not (tmp_path / "out/slides/mixed.csv").exists() and not list(tmp_path.rglob("*.part"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["batch", str(source), "--model", str(exported), "--out", str(tmp_path / "out"), "--mpp", str(MPP)])
    assert stop.value.code == 3
    assert "0 slides have patches that could not be read, 1 slides were refused" in capsys.readouterr().err
    (source / "mixed" / names[0]).unlink()
    assert slidewise.run_job(slides, job(exported, tmp_path / "out"), "serial", 1) == outcome(1, 4)
