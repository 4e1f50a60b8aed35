"""The GPU bench, as far as it runs without a GPU: arguments of its subjects, its arithmetic and its page."""

import importlib
import inspect

import pytest
from click.testing import CliRunner

from bcgan.bench import gpu, measure
from bcgan.errors import InputError
from tests.bench.test_bench import rates

MEASURED = {
    "training": {
        "bcgan mixed_bfloat16, XLA": rates(500.0, 600.0),
        "bcgan mixed_bfloat16": rates(50.0, 60.0),
        "bcgan float32, XLA": rates(400.0, 300.0),
        "pytorch bfloat16, channels last, CUDA graphs": rates(250.0, 200.0),
        "pytorch float32": {"rates": [], "peak_mebibytes": None, "failure": "no compiler"},
        "limit bfloat16": rates(1000.0, 1000.0),
    },
    "gan": {"bcgan mixed_bfloat16, XLA": rates(9.0), "two tapes mixed_bfloat16, XLA": rates(6.0)},
    "batch": {
        "bcgan, batch 64": rates(8.0),
        "pytorch, batch 64": rates(1.0),
        "pytorch, CUDA graphs, batch 64": rates(4.0),
    },
}


def test_every_subject_takes_its_arguments():
    for group in gpu.groups().values():
        for module, maker, arguments in group.values():
            make_subject = getattr(importlib.import_module(f"bcgan.bench.{module}"), maker)
            inspect.signature(make_subject).bind(**arguments)


def test_ratios_are_of_the_same_repeat_and_of_the_best():
    ratios = gpu.ratios(MEASURED, {"training": 200_000, "inference": 1})
    assert ratios["training_vs_pytorch_best"][0] == [2.0, 3.0]
    assert ratios["training_xla_vs_not"][0] == [10.0, 10.0]
    assert ratios["training_bfloat16_vs_float32"][0] == [1.25, 2.0]
    assert ratios["training_of_limit_bfloat16"][0] == [0.1, 0.12]
    assert ratios["gan_step_vs_two_tapes"][0] == [1.5]
    assert ratios["training_batch_64_vs_pytorch"] == ([2.0], "bcgan, batch 64 / pytorch, CUDA graphs, batch 64")
    assert ratios["inference_vs_pytorch_best"] == (None, "")


def test_the_page_has_the_measurements():
    results = {
        "rates": {name: measure.summarize_rates(group) for name, group in MEASURED.items()},
        "ratios": {"training_vs_pytorch_best": {"median": 2.5, "low": 2.0, "high": 3.0, "of": "ours / theirs"}},
        "device": "a GPU, 80 GB",
        "versions": {"tensorflow": "2", "torch": None},
    }
    page = gpu.format_page(results)
    assert "a GPU, 80 GB; TensorFlow 2, PyTorch absent." in page
    assert "| training_vs_pytorch_best | 2.50 | 2.00 to 3.00 | ours / theirs |" in page
    assert "| pytorch float32 | left out: no compiler |" in page
    assert "| bcgan mixed_bfloat16, XLA | 550.0 | 500.0 to 600.0 | 1 |" in page


def test_without_a_gpu_the_bench_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(gpu.machine, "choose_settings", lambda experiment: {"gpus": (0, "none")})
    with pytest.raises(InputError, match=r"no GPU here. Install tensorflow\[and-cuda\]"):
        CliRunner().invoke(gpu.main, [], catch_exceptions=False)
