"""Progress with time left, and the one log of a run."""

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

log = logging.getLogger("bcgan")


def bar(total: int, title: str, unit: str = "step", start: int = 0, visible: bool = True) -> tqdm:
    """A progress bar; where nobody watches (no terminal) it prints a line twice a minute at most."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, initial=start, desc=title, unit=unit, mininterval=interval, dynamic_ncols=True,
                disable=not visible)  # fmt: skip


def start_log(path: Path | None) -> None:
    """Messages go to the terminal and, with their time, to the run's log file."""
    log.setLevel(logging.INFO)
    log.handlers.clear()
    log.propagate = False
    screen = _ScreenHandler()
    screen.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(screen)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


def write_line(path: Path, **values: Any) -> None:
    """Append one line of JSON, the form of every training log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The training log's lines; a last line that a kill cut short is left out."""
    lines = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def keep_lines(path: Path, key: str, below: int) -> None:
    """Drop the lines that a resumed training is about to write again: those whose `key` is not below `below`."""
    lines = [line for line in read_lines(path) if line[key] < below]
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    part.replace(path)


class _ScreenHandler(logging.Handler):
    """Writes above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
