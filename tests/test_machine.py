"""What TensorFlow and LiteRT write while they load is left out, and nothing else is; a precision that this machine
lacks is refused."""

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info

from bcgan import machine
from bcgan.errors import InputError
from bcgan.experiment import Experiment

SAID = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795616974.470062   28071 port.cc:153] oneDNN custom operations are on.",
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
    "E0000 00:00:1795616974.470062   28071 somewhere.cc:1] Something is wrong.",
    "bcgan: a line of ours",
)


def heard(code: str, level: str | None) -> tuple[int, list[str]]:
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(("level", "expected"), [(None, SAID[3:]), ("0", SAID)])
def test_chatter_alone_is_left_out_and_an_abort_hides_nothing(level, expected):
    code = (
        "import os; from bcgan import machine; machine.prepare_environment()\n"
        f"with machine.suppress_loading_messages():\n  os.write(2, {chr(10).join((*SAID, '')).encode()!r}); os.abort()"
    )
    found, lines = heard(code, level)
    assert found < 0
    assert lines == list(expected)


def test_afterwards_standard_error_is_as_it_was():
    code = (
        "import sys; from bcgan import machine; machine.prepare_environment()\n"
        "try:\n  with machine.suppress_loading_messages(): raise OSError\n"
        f"except OSError: print({SAID[1]!r}, file=sys.stderr)"
    )
    assert heard(code, None) == (0, [SAID[1]])


@pytest.mark.slow
def test_tensorflow_loads_without_a_word():
    assert heard("from bcgan import machine; machine.prepare_environment(tensorflow=True)", None) == (0, [])


@pytest.mark.parametrize(("asked", "threads"), [(None, 1), ("2", 2)])
def test_numpy_has_one_thread_by_the_command_line_unless_told_otherwise(monkeypatch, asked, threads):
    if "openblas" not in {pool["internal_api"] for pool in threadpool_info()} or machine.processor()["cores"] < 2:
        pytest.skip("NumPy has no OpenBLAS here, or this process has one core")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", asked)
    code = (
        "from bcgan import cli\ntry: cli.main(['--version'])\nexcept SystemExit: import numpy, threadpoolctl\n"
        "print({pool['num_threads'] for pool in threadpoolctl.threadpool_info() if pool['internal_api'] == 'openblas'})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert said.endswith(f"{{{threads}}}\n"), said
    assert machine.choose_settings(trial())["blas"][0] == (asked or "every core")


def with_flags(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(machine, "processor", lambda: {"name": "a processor", "cores": 2, "bfloat16": list(flags)})


def trial(**settings) -> Experiment:
    return Experiment(name="a", data={"name": "histology_phantom"}, **settings)


def test_bfloat16_is_chosen_only_where_the_processor_has_it(monkeypatch):
    with_flags(monkeypatch)
    assert machine.choose_precision(trial(), 0) == ("float32", "the processor has no bfloat16 instructions")
    assert machine.choose_precision(trial(), 1)[0] == "mixed_bfloat16"
    with_flags(monkeypatch, "amx_bf16")
    assert machine.choose_precision(trial(), 0) == ("mixed_bfloat16", "the processor has amx_bf16")
    assert machine.choose_precision(trial(profile="repro"), 0)[0] == "float32"


def test_a_precision_that_the_machine_lacks_is_refused_with_the_remedy(monkeypatch):
    with_flags(monkeypatch)
    for precision in ("mixed_bfloat16", "mixed_float16"):
        with pytest.raises(InputError, match=f"^precision: {precision} needs .* Set precision=auto.$"):
            machine.check_precision(precision, 0)
        machine.check_precision(precision, 1)
    machine.check_precision("float32", 0)
    with_flags(monkeypatch, "avx512_bf16")
    machine.check_precision("mixed_bfloat16", 0)
    with pytest.raises(InputError, match="needs a GPU"):
        machine.check_precision("mixed_float16", 0)


def test_xla_is_for_gpus_and_not_where_the_same_weights_are_asked_for():
    chosen = [machine.choose_xla(trial(**own), gpus)[0] for own, gpus in (({}, 1), ({}, 0), ({"profile": "repro"}, 1))]
    assert chosen == [True, False, False]
    assert machine.choose_xla(trial(profile="repro", xla="on"), 0) == (True, "the experiment says so")
