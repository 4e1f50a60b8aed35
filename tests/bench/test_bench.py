"""The arithmetic of the bench on made-up rates, and its processes on a fast subject."""

import json
import logging
import os

import numpy as np
import pytest

from bcgan.artifacts import MANIFEST
from bcgan.bench import __main__ as bench
from bcgan.bench import agreement, measure, report, subjects
from bcgan.bench.worker import Worker
from bcgan.predict import formats


def test_the_whole_job_is_listed_and_extrapolated_for_the_archive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = {"preprocess": 60, "gan": 600, "evaluate": 1200}
    for number, (stage, seconds) in enumerate(stages.items()):
        folder = tmp_path / "runs" / "idc" / stage
        folder.mkdir(parents=True)
        manifest = {"finished": f"2026-01-0{number + 1}", "seconds": seconds, "peak_memory_mib": 1, "busy_cores": 1.5}
        (folder / MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / "runs/idc/preprocess/audit.json").write_text(json.dumps({"kept": 27_752}))
    whole_job = bench.read_whole_job()
    assert whole_job["idc"]["stages"]["gan"] == {"seconds": 600, "busy_cores": 1.5}
    lines = report._whole_job_section(whole_job)
    assert "| idc | 27,752 | gan | 10 min | 1.5 | 10 min |" in lines
    assert "| idc | 27,752 | evaluate | 20 min | 1.5 | 3 h 20 min |" in lines
    assert lines[-1] == "| idc | 27,752 | all | 31 min | | 3 h 40 min |"
    assert "| phantom | 27,752 | gan | 10 min | 1.5 |  |" in report._whole_job_section({"phantom": whole_job["idc"]})


def rates(*values: float) -> dict:
    return {"rates": list(values), "peak_mebibytes": 1, "failure": None}


MEASURED = {
    "training": {
        "bcgan mixed_bfloat16": rates(400.0, 300.0),
        "bcgan float32": rates(200.0, 100.0),
        "keras fit": rates(100.0, 100.0),
        "pytorch float32": rates(50.0, 50.0),
        "pytorch bfloat16, channels last": rates(200.0, 100.0),
        "pytorch bfloat16, channels last, compiled": {"rates": [], "failure": "no compiler"},
        "limit float32": rates(120.0, 120.0),
    },
}


def test_ratios_are_of_the_same_repeat_and_of_the_best():
    ratios = bench.ratios(MEASURED, "mixed_bfloat16", {"training": 300_000, "inference": 100_000})
    best = "bcgan mixed_bfloat16 / pytorch bfloat16, channels last"
    assert ratios["training_vs_pytorch_best"] == ([2.0, 3.0], best)
    assert ratios["training_vs_keras_fit"][0] == [4.0, 3.0]
    assert ratios["training_float32_vs_pytorch_float32"][0] == [4.0, 2.0]
    assert ratios["training_of_limit"][0] == pytest.approx([200 * 0.3 / 120, 100 * 0.3 / 120])


def test_best_against_best_counts_only_faithful_engines():
    rate = {"bcgan mixed_bfloat16": 300.0, "openvino float32": 200.0, "litert int8": 400.0, "pytorch bfloat16": 100.0}
    measured = {"inference": {name: rates(value) for name, value in rate.items()}}
    work = {"training": 1, "inference": 1}
    ratios = bench.ratios(measured, "mixed_bfloat16", work, ["openvino float32"])
    assert ratios["inference_vs_pytorch_best"] == ([2.0], "openvino float32 / pytorch bfloat16")
    assert ratios["inference_tensorflow_vs_pytorch_best"] == ([3.0], "bcgan mixed_bfloat16 / pytorch bfloat16")
    assert bench.ratios(measured, "mixed_bfloat16", work)["inference_vs_pytorch_best"] == (None, "")


@pytest.mark.slow
def test_an_engine_is_faithful_if_it_agrees_with_keras(monkeypatch):
    monkeypatch.setattr(agreement, "NUM_TRAIN", 64)
    monkeypatch.setattr(agreement, "NUM_TEST", 32)
    monkeypatch.setattr(agreement, "EPOCHS", 1)
    monkeypatch.setattr(formats, "NUM_CALIBRATION_PATCHES", 8)  # of the integers, which are not asked to be faithful
    measured = agreement.measure_agreement()
    assert measured["bcgan float32"]["largest_difference"] < 1e-5
    assert set(measured) <= set(bench.groups("mixed_bfloat16")["inference"])
    for name, entry in measured.items():
        assert entry["faithful"] or "float32" not in name


def test_ratios_without_measurements_are_unknown():
    ratios = bench.ratios(MEASURED, "mixed_bfloat16", {"training": 1, "inference": 1})
    assert ratios["inference_vs_pytorch_best"] == (None, "")
    assert ratios["gan_step_vs_two_tapes"] == (None, "")


def test_operations_of_table_1_match_a_count_by_hand():
    """By hand: a 7x7 stem at 25x25, four bottlenecks at 13x13, three channels, 1,000 units, a head."""
    stem, places = 25 * 25 * 64 * 3 * 49, 13 * 13
    inner = 9 * 64 * 64 + 64 * 256
    blocks = places * (64 * 64 + 3 * 256 * 64 + 4 * inner)
    expected = 2 * (stem + blocks + places * 256 * 3 + 27 * 1000 + 1000)
    operations = report.count_operations()
    assert operations == {"inference": expected, "training": 3 * expected - 2 * stem}


def test_a_worker_reports_its_count_and_seconds():
    worker = Worker("subjects", "start_up", {})
    try:
        answer = worker.run_once()
    finally:
        worker.close()
    assert worker.failure is None
    assert answer["count"] == 1
    assert answer["seconds"] > 0


def test_a_subject_that_fails_is_named_and_not_run_again():
    worker = Worker("subjects", "start_up", {"network": "nowhere"})
    assert worker.run_once() is None
    worker.close()
    assert "unexpected keyword argument 'network'" in worker.failure
    assert worker.run_once() is None


@pytest.mark.parametrize(("error", "advised"), [("ModuleNotFoundError", True), ("RuntimeError", False)])
def test_without_pytorch_the_rest_is_measured(tmp_path, monkeypatch, caplog, error, advised):
    """A torch package that is missing or fails. It writes more than a pipe holds, which must not block."""
    text = f"import sys\nprint('a line of many' * 9999, file=sys.stderr)\nraise {error}(\"No module named 'torch'\")\n"
    (tmp_path / "torch.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(measure.progress.log, "propagate", True)
    group = {"pytorch float32": ("pytorch", "training", {"settings": "float32"}), "help": ("subjects", "start_up", {})}
    with caplog.at_level(logging.WARNING, "bcgan"):
        results = measure.measure_group("training", group, 1)
    assert results["pytorch float32"]["failure"] == f"{error}: No module named 'torch'"
    assert len(results["help"]["rates"]) == 1
    assert (measure.INSTALL_COMMAND in caplog.text) == advised


def test_memory_of_a_command_excludes_its_parent():
    """The process that starts it loads numpy, OpenCV and the phantom; the command does not."""
    worker = Worker("subjects", "start_up", {})
    try:
        peak = worker.run_once()["peak_mebibytes"]
    finally:
        worker.close()
    assert 5 < peak < 60


def test_memory_of_preparing_is_no_part_of_the_peak(monkeypatch):
    monkeypatch.setattr(subjects, "NUM_FILES", 30)
    subject = subjects.preprocess()
    assert subject() == 30
    assert not [cell for cell in subject.__closure__ if isinstance(cell.cell_contents, np.ndarray)]


@pytest.mark.slow
def test_waiting_is_a_share_of_the_time():
    worker = Worker("subjects", "input_wait", {"precision": "float32", "batch": 8, "patches": 64})
    try:
        answer = worker.run_once()
    finally:
        worker.close()
    assert worker.failure is None
    assert 0 < answer["count"] / answer["seconds"] < 100
    measured = {"waiting": {"Table 1's network": rates(1.0, 4.0)}}
    ratios = bench.ratios(measured, "float32", {"training": 1, "inference": 1})
    assert ratios["waiting_share"][0] == [0.01, 0.04]


def test_page_and_figure_have_the_measurements(tmp_path):
    results = {
        "ratios": {"training_vs_pytorch_best": 2.5, "gan_step_vs_two_tapes": None},
        "spread": {"training_vs_pytorch_best": [2.0, 3.0], "gan_step_vs_two_tapes": None},
        "of": {"training_vs_pytorch_best": "ours / theirs"},
        "agreement": {"openvino bfloat16": {"largest_difference": 0.0076, "roc_auc": 0.88, "faithful": True}},
        "rates": {name: bench.summarize_rates(group) for name, group in MEASURED.items()},
        "operations": {"training": 300_000, "inference": 100_000},
        "profile": {"before": {"Conv2D": 3.0, "Mul": 2.0}, "after": {"Conv2D": 3.0}, "gan": {"Einsum": 4.0}},
        "machine": {"cores": 2, "name": "a processor", "bfloat16": []},
        "versions": {"tensorflow": "2", "torch": None, "openvino": "3"},
    }
    report.write(results, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| training_vs_pytorch_best | 2.50 | 2.00 to 3.00 | 1.3 | ours / theirs |" in page
    assert "| openvino bfloat16 | 7.6e-03 | 0.8800 | yes |" in page
    assert "| gan_step_vs_two_tapes | unknown |" in page
    assert "left out: no compiler" in page
    assert "| Mul | 2.0 | 0.0 |" in page
    assert "| gan two tapes | gan |\n|---|---|---|\n| Einsum | 0.0 | 4.0 |" in page
    assert json.loads((tmp_path / "results.json").read_text())["ratios"]["training_vs_pytorch_best"] == 2.5
    assert (tmp_path / "figures" / "rates.svg").exists()
