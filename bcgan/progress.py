"""Progress bars, the log of a run, and the training logs (JSON lines)."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

log = logging.getLogger("bcgan")
listeners: list[Callable[[Path, dict[str, Any]], None]] = []  # called with each line that a training log gets

_has_bars = True


def hide_bars() -> None:
    """Show no progress bars in this process, whose output goes to a terminal that other processes write to."""
    global _has_bars
    _has_bars = False


def bar(total: int, title: str, unit: str = "step", start: int = 0, visible: bool = True) -> tqdm:
    """Return a progress bar; without a terminal it prints at most two lines a minute."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, initial=start, desc=title, unit=unit, mininterval=interval, dynamic_ncols=True,
                disable=not (visible and _has_bars))  # fmt: skip


def start_log(path: Path | None) -> None:
    """Send log messages to the terminal and, with their time, to the log file `path`, if one is given."""
    log.setLevel(logging.INFO)
    log.handlers.clear()
    log.propagate = False
    terminal_handler = _TerminalHandler()
    terminal_handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(terminal_handler)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        file_handler = logging.FileHandler(path, encoding="utf-8")
        file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file_handler)


def append_jsonl(path: Path, **values: Any) -> None:
    """Append a line to a training log, which is a file with one JSON object a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
    for listener in listeners:
        listener(path, values)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a training log as dicts, without a last line that an interruption left incomplete."""
    lines = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def truncate_jsonl(path: Path, key: str, below: int) -> None:
    """Keep only lines of a training log whose `key` is less than `below`: resuming writes the others again."""
    lines = [line for line in read_jsonl(path) if line[key] < below]
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    part.replace(path)


class _TerminalHandler(logging.Handler):
    """A handler that writes above a running progress bar, so that neither breaks the other's line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record to standard error."""
        tqdm.write(self.format(record), file=sys.stderr)
