"""A process for one subject: it prepares, then does its work once for every line that it is sent."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Worker:
    """The other side: starts the process, asks for repeats.

    Args:
        module, maker: strings. Where the subject is made.
        arguments: of the maker.
        cores: int. How many the process may use; None: all.
    """

    def __init__(self, module: str, maker: str, arguments: dict[str, Any], cores: int | None = None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bcgan.bench.worker", json.dumps([module, maker, arguments, cores])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.failure = None
        self.ask()  # the first is for warming up

    def ask(self) -> dict[str, float] | None:
        """One repeat: {count, seconds, peak_mebibytes}; None where the process has ended, `failure` says why."""
        if self.failure is None:
            try:
                self.process.stdin.write("\n")
                self.process.stdin.flush()
                return json.loads(self.process.stdout.readline())
            except (BrokenPipeError, json.JSONDecodeError):
                lines = self.process.communicate()[1].strip().splitlines()
                self.failure = lines[-1][:200] if lines else f"ended with {self.process.returncode}"
        return None

    def end(self) -> None:
        """Close its input, upon which it leaves nothing behind; kill it where that takes too long."""
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def main() -> None:
    module, maker, arguments, cores = json.loads(sys.argv[1])
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    from bcgan import machine

    machine.prepare_environment()
    run = getattr(importlib.import_module(f"bcgan.bench.{module}"), maker)(**arguments)
    run()
    for _ in sys.stdin:
        began = time.perf_counter()
        count = run()
        seconds = time.perf_counter() - began
        peak = _peak_mebibytes()
        print(json.dumps({"count": count, "seconds": seconds, "peak_mebibytes": peak}), file=answers, flush=True)


def _peak_mebibytes() -> float | None:
    """Of this process alone: getrusage's figure begins with that of the process which started it."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    except OSError:
        return None
    return int(fields["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main()
