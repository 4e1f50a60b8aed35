"""Time subjects in turn, and compute ratios of their rates."""

import statistics
from typing import Any

from bcgan import progress
from bcgan.bench.worker import Worker

INSTALL_COMMAND = "pip install -r requirements-bench.txt"


def measure_group(
    name: str, group: dict[str, tuple], repeats: int, prepare_together: bool = False
) -> dict[str, dict[str, Any]]:
    """Time every subject of a group once, then again, `repeats` times.

    Args:
        name: Of the group, for messages.
        group: The arguments of `Worker`, by subject.
        prepare_together: Whether subjects prepare at the same time. On a GPU, preparing takes most of the time, and
            most cores are idle.

    Returns:
        {subject: {rates: [...], peak_mebibytes, failure}}.
    """
    workers = {}
    with progress.bar(len(group) * (repeats + 1), f"bench {name}", "repeat") as bar:
        try:
            for subject, spec in group.items():
                workers[subject] = Worker(*spec)
                if not prepare_together:
                    workers[subject].run_once()
                    bar.update()
            if prepare_together:
                for worker in workers.values():
                    worker.run_once()
                    bar.update()
            by_subject: dict[str, dict[str, Any]] = {
                subject: {"rates": [], "peak_mebibytes": None} for subject in group
            }
            for _ in range(repeats):
                for subject, worker in workers.items():
                    if answer := worker.run_once():
                        peak = answer["peak_mebibytes"]
                        by_subject[subject]["rates"].append(answer["count"] / answer["seconds"])
                        by_subject[subject]["peak_mebibytes"] = peak and round(peak)
                    bar.update()
        finally:
            for worker in workers.values():
                worker.close()
    for subject, worker in workers.items():
        by_subject[subject]["failure"] = worker.failure
        if worker.failure:
            progress.log.warning("bench: %s: %s left out: %s", name, subject, worker.failure)
            if worker.failure.startswith("ModuleNotFoundError"):
                progress.log.warning("bench: to install what bcgan is compared with, run: %s", INSTALL_COMMAND)
    return by_subject


def summarize_rates(group: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each subject's median, lowest and highest rate, rounded, and its peak memory; or why it failed.

    A rate is in patches a second, of limits in millions of operations a second, of waiting in percent of the time.
    """
    summary: dict[str, dict[str, Any]] = {}
    for subject, measures in group.items():
        rates = measures["rates"]
        if rates:
            summary[subject] = {
                "median": round(statistics.median(rates), 1), "low": round(min(rates), 1),
                "high": round(max(rates), 1), "peak_mebibytes": measures["peak_mebibytes"],
            }  # fmt: skip
        else:
            summary[subject] = {"median": None, "failure": measures["failure"]}
    return summary


def get_rates(measured: dict, group: str, subject: str) -> list[float] | None:
    """Return a subject's rates, one for each repeat; `None` if there are none."""
    return measured.get(group, {}).get(subject, {}).get("rates") or None


def best_subject(measured: dict, group: str, prefixes: str | tuple[str, ...]) -> str:
    """Return the subject with the highest median rate, of those whose names start with a prefix; empty if none."""
    names = [name for name in measured.get(group, {}) if name.startswith(prefixes) and get_rates(measured, group, name)]
    return max(names, key=lambda name: statistics.median(get_rates(measured, group, name)), default="")


def rate_ratios(
    measured: dict, group: str, numerator: str, denominator: str, factor: float = 1.0
) -> tuple[list[float] | None, str]:
    """Return the ratio of two subjects' rates in every repeat, and the names of both; `None` if one has no rates."""
    numerators, denominators = get_rates(measured, group, numerator), get_rates(measured, group, denominator)
    if not numerators or not denominators:
        return None, ""
    pairs = zip(numerators, denominators, strict=False)  # a subject that failed later has fewer rates
    return [factor * above / below for above, below in pairs], f"{numerator} / {denominator}"


def best_ratios(
    measured: dict, group: str, ours: str | tuple[str, ...], theirs: str | tuple[str, ...], factor: float = 1.0
) -> tuple[list[float] | None, str]:
    """Return the ratios of the best of our and the best of their subjects; both are given by prefixes of names."""
    numerator, denominator = (best_subject(measured, group, prefixes) for prefixes in (ours, theirs))
    return rate_ratios(measured, group, numerator, denominator, factor)
