"""A process that times one subject: it prepares, then runs the subject once for every line on its standard input."""

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
    """A handle for such a process.

    Args:
        module, maker: Names of the module in bcgan.bench and of its function that makes the subject.
        arguments: Keyword arguments of the maker.
        cores: How many cores the process may use; `None` for all.
    """

    def __init__(self, module: str, maker: str, arguments: dict[str, Any], cores: int | None = None):
        # stderr goes to a file: an unread pipe would fill up and block the process.
        self.stderr_file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bcgan.bench.worker", json.dumps([module, maker, arguments, cores])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr_file, text=True,
        )  # fmt: skip
        self.failure = None

    def run_once(self) -> dict[str, float] | None:
        """Run the subject once, the first time to warm up.

        Returns:
            {count, seconds, peak_mebibytes}, or `None` if the process has ended; then `failure` has the reason.
        """
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

    def close(self) -> None:
        """End the process by closing its standard input, so that it cleans up; kill it after 20 seconds."""
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.stderr_file.close()


def main() -> None:
    """Make the subject of the command line's JSON argument, and time it for every line on standard input."""
    module, maker, arguments, cores = json.loads(sys.argv[1])
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep what libraries print out of the answers
    from bcgan import machine

    machine.prepare_environment()
    run = getattr(importlib.import_module(f"bcgan.bench.{module}"), maker)(**arguments)
    with suppress(OSError):  # reset the peak memory, which must not include preparing
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    run()
    for _ in sys.stdin:
        start_time = time.perf_counter()
        count = run()
        seconds = time.perf_counter() - start_time
        peak = run.peak_mebibytes if hasattr(run, "peak_mebibytes") else peak_mebibytes("self")
        print(json.dumps({"count": count, "seconds": seconds, "peak_mebibytes": peak}), file=answers, flush=True)


def peak_mebibytes(process: int | str) -> float | None:
    """Return the peak memory of one process; `None` if it is unknown.

    getrusage would include the memory of the parent process before the child replaced its program.
    """
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text("utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return None


if __name__ == "__main__":
    main()
