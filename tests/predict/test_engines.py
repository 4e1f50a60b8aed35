"""Every engine gives the probabilities of Keras for the shipped classifier; a missing engine is reported."""

import csv
import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import bcgan
from bcgan import cli, cli_options
from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.errors import InputError
from bcgan.predict import engines, formats, model
from bcgan.predict.predict import is_small_job
from bcgan.slides.files import find_images
from tests.conftest import write_png

openvino = pytest.mark.skipif(not engines.is_installed("openvino"), reason="OpenVINO is not installed")
CLASSIFIER = model.SHIPPED / "classifier.tflite"


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    return example_patches(70)[0]  # a full batch and a part of one


@openvino
def test_openvino_gives_the_probabilities_of_keras(patches):
    models = [bcgan.load(engine=engine) for engine in ("openvino", "keras")]
    for loaded in models:
        loaded.card = loaded.card.model_copy(update={"tta_views": 2})
    by_openvino, by_keras = (model.probabilities(patches) for model in models)
    np.testing.assert_allclose(by_openvino, by_keras, atol=0.006)
    assert np.ptp(by_keras) > 0.05  # otherwise agreement means nothing
    by_openvino, by_keras = (model.predict(patches) for model in models)
    assert (by_openvino.verdict != by_keras.verdict).sum() <= 1  # a patch at a threshold may get either verdict
    same = by_openvino.verdict == by_keras.verdict
    assert np.isfinite(by_keras.uncertainty[same]).sum() > 30
    np.testing.assert_allclose(by_openvino.uncertainty[same], by_keras.uncertainty[same], atol=0.006)


@openvino
@pytest.mark.parametrize("count", [1, 3, 64, 65])
def test_openvino_takes_any_number_of_patches(patches, count):
    run = engines.make_openvino_runner(CLASSIFIER)
    assert run(patches[:count]).dtype == np.float32
    np.testing.assert_allclose(run(patches[:count]), run(patches)[:count], atol=1e-5)


@openvino
def test_openvino_answers_several_threads(patches):
    run, answers = engines.make_openvino_runner(CLASSIFIER), {}
    expected = run(patches)

    def ask(number: int) -> None:
        for _ in range(4):
            answers[number] = run(patches[number : number + 20 + number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for number in range(4):
        np.testing.assert_allclose(answers[number], expected[number : number + 20 + number], atol=1e-5)


@openvino
def test_openvino_sends_no_telemetry(tmp_path):
    code = "import bcgan, sys; bcgan.load(engine='openvino'); sys.exit(sys.modules['openvino_telemetry'] is not None)"
    environment = os.environ | {"HOME": str(tmp_path)}
    completed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert completed.returncode == 0, completed.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("engine", "package"), [("openvino", "openvino"), ("litert", "ai-edge-litert")])
def test_a_missing_package_is_named_with_a_remedy(engine, package, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"engine {engine}: .* is not installed: pip install {package}, or use"):
        bcgan.load(engine=engine)


@pytest.mark.parametrize(
    ("installed", "processor", "for_large_job", "for_small_job"),
    [
        (("openvino", "ai_edge_litert"), "x86_64", "openvino", "litert"),
        (("openvino", "ai_edge_litert"), "aarch64", "litert", "litert"),
        (("openvino",), "AMD64", "openvino", "openvino"),
        (("openvino",), "arm64", "keras", "keras"),
        (("ai_edge_litert",), "x86_64", "litert", "litert"),
        ((), "x86_64", "keras", "keras"),
    ],
)
def test_the_fastest_engine_is_chosen_for_the_processor_and_the_job(
    monkeypatch, installed, processor, for_large_job, for_small_job
):
    monkeypatch.setattr(engines, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(engines.platform, "machine", lambda: processor)
    assert engines.fastest_engine() == for_large_job
    assert engines.fastest_engine(small_job=True) == for_small_job


def test_one_patch_is_a_small_job_and_a_slide_is_not(tmp_path):
    write_png(tmp_path / "patch.png", example_patches(1)[0][0])
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    write_png(tmp_path / "slide.png", noise)
    patch, slide, missing = (str(tmp_path / name) for name in ("patch.png", "slide.png", "missing.png"))
    assert is_small_job(find_images(["-"], [patch, missing]))
    assert not is_small_job(find_images([patch, slide]))


def test_an_engine_can_be_chosen_by_name(tmp_path, capsys, monkeypatch):
    write_png(tmp_path / "patch.png", example_patches(1)[0][0])
    verdicts, loaded, load = set(), [], model.load
    monkeypatch.setattr(model, "load", lambda *arguments: loaded.append(load(*arguments)) or loaded[-1])
    for name in filter(engines.is_installed, engines.RUNTIMES):
        with pytest.raises(SystemExit) as stop:
            cli.main(["predict", str(tmp_path / "patch.png"), "--engine", name])
        assert stop.value.code in (0, 3)
        assert loaded.pop().engine == name
        verdicts |= {row["verdict"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert len(verdicts) == 1
    assert cli_options.ENGINES == engines.ENGINES  # a copy, because --help must not import engines
    assert tuple(formats.FORMAT_FILES) == cli_options.FORMATS


def test_a_folder_without_engine_files_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"has no classifier.tflite; export it again"):
        engines.select_engine("openvino", tmp_path, {})
