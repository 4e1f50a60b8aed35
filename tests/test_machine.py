"""Messages that TensorFlow and LiteRT write while they load are suppressed, and no others; a precision that this
machine lacks is refused."""

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info

from bcgan import cli, machine
from bcgan.errors import InputError
from bcgan.experiment import Experiment

STDERR_LINES = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795616974.470062   28071 port.cc:153] oneDNN custom operations are on.",
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
    "E0000 00:00:1795616974.470062   28071 somewhere.cc:1] Something is wrong.",
    "bcgan: a line of ours",
)


def run_code(code: str, level: str | None) -> tuple[int, list[str]]:
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(("level", "expected"), [(None, STDERR_LINES[3:]), ("0", STDERR_LINES)])
def test_only_loading_messages_are_suppressed_also_before_an_abort(level, expected):
    written = "\n".join((*STDERR_LINES, "")).encode()
    code = (
        "import os; from bcgan import machine; machine.prepare_environment()\n"
        f"with machine.suppress_loading_messages():\n  os.write(2, {written!r}); os.abort()"
    )
    exit_code, lines = run_code(code, level)
    assert exit_code < 0
    assert lines == list(expected)


def test_standard_error_is_restored_afterwards():
    code = (
        "import sys; from bcgan import machine; machine.prepare_environment()\n"
        "try:\n  with machine.suppress_loading_messages(): raise OSError\n"
        f"except OSError: print({STDERR_LINES[1]!r}, file=sys.stderr)"
    )
    assert run_code(code, None) == (0, [STDERR_LINES[1]])


@pytest.mark.slow
def test_tensorflow_loads_without_output():
    assert run_code("from bcgan import machine; machine.prepare_environment(tensorflow=True)", None) == (0, [])


@pytest.mark.parametrize(("requested", "threads"), [(None, 1), ("2", 2)])
def test_the_command_line_gives_numpy_one_thread_by_default(monkeypatch, requested, threads):
    if "openblas" not in {pool["internal_api"] for pool in threadpool_info()} or machine.processor()["cores"] < 2:
        pytest.skip("NumPy has no OpenBLAS here, or this process has one core")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if requested:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", requested)
    code = (
        "from bcgan import cli\ntry: cli.main(['--version'])\nexcept SystemExit: import numpy, threadpoolctl\n"
        "print({pool['num_threads'] for pool in threadpoolctl.threadpool_info() if pool['internal_api'] == 'openblas'})"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert output.endswith(f"{{{threads}}}\n"), output
    assert machine.choose_settings(trial())["blas"][0] == (requested or "every core")


@pytest.mark.parametrize(("requested", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_command_line_lets_threads_wait_without_using_a_core_by_default(monkeypatch, requested, policy):
    monkeypatch.setenv("OMP_WAIT_POLICY", requested or "")  # restored afterwards
    if not requested:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == policy


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


def test_a_precision_the_machine_lacks_is_refused_with_the_remedy(monkeypatch):
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


def test_xla_is_chosen_on_gpus_except_in_the_repro_profile():
    cases = (({}, 1), ({}, 0), ({"profile": "repro"}, 1))
    chosen = [machine.choose_xla(trial(**settings), gpus)[0] for settings, gpus in cases]
    assert chosen == [True, False, False]
    assert machine.choose_xla(trial(profile="repro", xla="on"), 0) == (True, "the experiment says so")
