"""Processes that are forked from one that has imported TensorFlow, because each new process takes seconds for that."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

if sys.platform == "linux":
    CONTEXT = multiprocessing.get_context("forkserver")
    CONTEXT.set_forkserver_preload(
        ["tensorflow", "keras", "bcgan.cli", "bcgan.stages", "bcgan.preprocess.store", "bcgan.gan.train"]
    )
else:
    CONTEXT = multiprocessing.get_context("spawn")


class Forked:
    """A function that runs in a process of its own, with its own folder, environment variables and stderr."""

    def __init__(
        self, function: Callable[..., None], *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
    ):
        """Start the process.

        Args:
            function: Of a module.
            folder: The current folder of the process, which also gets the file of its stderr.
            environment: Variables in addition to those of this process.
        """
        self._stderr = folder / f"stderr-{time.monotonic_ns()}.txt"
        variables = {**os.environ, **(environment or {})}
        self._process = CONTEXT.Process(target=_run, args=(function, arguments, folder, variables, self._stderr))
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit code, `None` while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self._process.pid, number)

    def stderr(self) -> str:
        """Return what the process wrote to stderr so far."""
        return self._stderr.read_text("utf-8") if self._stderr.exists() else ""

    def wait(self, timeout: float = 240) -> tuple[int, str]:
        """Wait for the end, and return the exit code and the stderr; the process is killed after `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(self.stderr())
        return self._process.exitcode, self.stderr()


def run_bcgan(*arguments: str) -> None:
    """Run the command `bcgan`."""
    from bcgan import cli

    cli.main(list(arguments))


def run_bcgan_untraced(*arguments: str) -> None:
    """Run the command `bcgan` without tracing training steps: tracing takes longer than a few steps."""
    import tensorflow as tf

    from bcgan.gan import train

    tf.config.run_functions_eagerly(True)
    train.recalibrate_batch_norm = partial(train.recalibrate_batch_norm, batch=16)
    run_bcgan(*arguments)


def _run(function: Callable[..., None], arguments: tuple, folder: Path, variables: dict[str, str], file: Path) -> None:
    """Call a function in the process that was started for it; `file` gets its stderr."""
    with file.open("wb", 0) as stderr:
        os.dup2(stderr.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a script ignore SIGINT
    os.chdir(folder)
    os.environ.update(variables)
    function(*arguments)
