"""What TensorFlow and LiteRT write while they load is left out, and nothing else is."""

import os
import subprocess
import sys

import pytest

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
        f"with machine.quiet():\n  os.write(2, {chr(10).join((*SAID, '')).encode()!r}); os.abort()"
    )
    found, lines = heard(code, level)
    assert found < 0
    assert lines == list(expected)


def test_afterwards_standard_error_is_as_it_was():
    code = (
        "import sys; from bcgan import machine; machine.prepare_environment()\n"
        "try:\n  with machine.quiet(): raise OSError\n"
        f"except OSError: print({SAID[1]!r}, file=sys.stderr)"
    )
    assert heard(code, None) == (0, [SAID[1]])


@pytest.mark.slow
def test_tensorflow_loads_without_a_word():
    assert heard("from bcgan import machine; machine.prepare_environment(tensorflow=True)", None) == (0, [])
