"""A process for one subject: it prepares, then does its work once for every line that it is sent."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


class Worker:
    """The other side: starts the process, asks for repeats; the first is for warming up.

    Args:
        module, maker: strings. The module and the function that builds the subject.
        arguments: of the maker.
        cores: int. How many the process may use; None: all.
    """

    def __init__(self, module: str, maker: str, arguments: dict[str, Any], cores: int | None = None):
        # stderr goes to a file: a pipe that nobody reads fills up and blocks the process.
        self.stderr_file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bcgan.bench.worker", json.dumps([module, maker, arguments, cores])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr_file, text=True,
        )  # fmt: skip
        self.failure = None

    def ask(self) -> dict[str, float] | None:
        """One repeat: {count, seconds, peak_mebibytes}; None where the process has ended, `failure` says why."""
        if self.failure is None:
            try:
                self.process.stdin.write("\n")
                self.process.stdin.flush()
                return json.loads(self.process.stdout.readline())
            except (BrokenPipeError, json.JSONDecodeError):
                self.process.communicate()
                self.stderr_file.seek(0)
                lines = self.stderr_file.read().strip().splitlines()
                self.failure = lines[-1][:200] if lines else f"ended with {self.process.returncode}"
        return None

    def end(self) -> None:
        """Close its input, upon which it leaves nothing behind; kill it where that takes too long."""
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.stderr_file.close()


def main() -> None:
    module, maker, arguments, cores = json.loads(sys.argv[1])
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    from bcgan import machine

    machine.prepare_environment()
    run = getattr(importlib.import_module(f"bcgan.bench.{module}"), maker)(**arguments)
    with suppress(OSError):  # the peak begins anew: what preparing took is none of the subject's
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    run()
    for _ in sys.stdin:
        began = time.perf_counter()
        count = run()
        seconds = time.perf_counter() - began
        peak = run.peak_mebibytes if hasattr(run, "peak_mebibytes") else peak_mebibytes("self")
        print(json.dumps({"count": count, "seconds": seconds, "peak_mebibytes": peak}), file=answers, flush=True)


def peak_mebibytes(process: int | str) -> float | None:
    """Of that process alone: getrusage's figure begins with that of the process which started it."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text("utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return None


if __name__ == "__main__":
    main()
