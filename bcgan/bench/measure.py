"""Subjects timed in turn, and what their rates say of one another."""

import statistics
from typing import Any

from bcgan import progress
from bcgan.bench.worker import Worker

ABSENT = "pip install -r requirements-bench.txt"


def measure(name: str, group: dict[str, tuple], repeats: int, together: bool = False) -> dict[str, dict[str, Any]]:
    """{subject: {rates: [...], peak_mebibytes, failure}}; a repeat of every subject, then the next repeat.

    Args:
        together: bool. Subjects prepare side by side: on a GPU that takes most of the time, and cores are idle.
    """
    workers = {}
    with progress.bar(len(group) * (repeats + 1), f"bench {name}", "repeat") as bar:
        try:
            for subject, spec in group.items():
                workers[subject] = Worker(*spec)
                if not together:
                    workers[subject].ask()
                    bar.update()
            if together:
                for worker in workers.values():
                    worker.ask()
                    bar.update()
            by_subject = {subject: {"rates": [], "peak_mebibytes": None} for subject in group}
            for _ in range(repeats):
                for subject, worker in workers.items():
                    if answer := worker.ask():
                        by_subject[subject]["rates"].append(answer["count"] / answer["seconds"])
                        by_subject[subject]["peak_mebibytes"] = answer["peak_mebibytes"] and round(
                            answer["peak_mebibytes"]
                        )
                    bar.update()
        finally:
            for worker in workers.values():
                worker.end()
    for subject, worker in workers.items():
        by_subject[subject]["failure"] = worker.failure
        if worker.failure:
            progress.log.warning("bench: %s: %s left out: %s", name, subject, worker.failure)
            if worker.failure.startswith("ModuleNotFoundError"):
                progress.log.warning("bench: for what is compared with, run: %s", ABSENT)
    return by_subject


def rates(group: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each subject's median, least and most: patches a second, of limits millions of operations, of waiting percent."""
    return {
        subject: {
            "median": round(statistics.median(measures["rates"]), 1), "low": round(min(measures["rates"]), 1),
            "high": round(max(measures["rates"]), 1), "peak_mebibytes": measures["peak_mebibytes"],
        } if measures["rates"] else {"median": None, "failure": measures["failure"]}
        for subject, measures in group.items()
    }  # fmt: skip


def of(measured: dict, group: str, subject: str) -> list[float] | None:
    """A subject's rates, repeat by repeat."""
    return measured.get(group, {}).get(subject, {}).get("rates") or None


def best(measured: dict, group: str, *kinds: str) -> str:
    """The subject of those kinds with the highest median."""
    names = [name for name in measured.get(group, {}) if name.startswith(kinds) and of(measured, group, name)]
    return max(names, key=lambda name: statistics.median(of(measured, group, name)), default="")


def ratio(measured: dict, group: str, above: str, below: str, factor: float = 1.0) -> tuple[list[float] | None, str]:
    """Of every repeat, both of the same turn through the group; and of which subjects."""
    numerators, denominators = of(measured, group, above), of(measured, group, below)
    if not numerators or not denominators:
        return None, ""
    return [
        factor * x / y for x, y in zip(numerators, denominators, strict=False)
    ], f"{above} / {below}"  # one may have died
