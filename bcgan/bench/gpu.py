"""The same measurements on a GPU: reports/bench/gpu/. Batches are on the device already, where it is not said."""

import os
import statistics
import subprocess
from pathlib import Path

import click

from bcgan import machine, progress, runs
from bcgan.bench import report
from bcgan.bench.measure import best, measure, rates, ratio
from bcgan.bench.pytorch import GRAPHS, SETTINGS
from bcgan.bench.subjects import trial
from bcgan.errors import InputError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STEPS, SCORED = 100, 16_384
BATCHES = (64, 256, 1024)
LARGE = {"side": 8192, "times": 20}


def groups() -> dict[str, dict[str, tuple]]:
    """As `bcgan.bench.__main__.groups`; "XLA": the whole step compiled."""
    ways = {f"{kind}{', XLA' if xla else ''}": {"precision": kind, "xla": xla} for kind in PRECISIONS for xla in (0, 1)}
    steps = {"steps": STEPS}
    there, quickest = {"device": "cuda"} | steps, {"precision": "mixed_bfloat16", "xla": True} | steps
    pytorch = list(SETTINGS | GRAPHS)
    return {
        "training": {f"bcgan {name}": ("subjects", "training", way | steps) for name, way in ways.items()}
        | {f"pytorch {name}": ("pytorch", "training", {"settings": name} | there) for name in pytorch}
        | {f"limit {kind}": ("subjects", "limit", {"precision": kind} | LARGE) for kind in ("float32", "bfloat16")},
        "gan": {f"bcgan {name}": ("subjects", "gan", way | steps | {"tapes": 1}) for name, way in ways.items()}
        | {
            f"two tapes {name}": ("subjects", "gan", way | steps | {"tapes": 2})
            for name, way in ways.items() if "bfloat16" in name
        }
        | {"bcgan, two discriminators": ("subjects", "gan", quickest | {"tapes": 1, "projected_weight": 1.0})},
        "batch": {
            f"{ours} {size}": (module, "training", way | {"batch": size})
            for size in BATCHES
            for ours, module, way in (
                ("bcgan, batch", "subjects", quickest),
                ("pytorch, batch", "pytorch", {"settings": "bfloat16, channels last, compiled"} | there),
                ("pytorch, CUDA graphs, batch", "pytorch", {"settings": next(iter(GRAPHS))} | there),
            )
        },
        "gan_resnet": {"bcgan training": ("subjects", "training", quickest | {"network": "gan_resnet"})},
        "inference": {
            f"bcgan {kind}": ("subjects", "inference", {"precision": kind, "scored": SCORED})
            for kind in ("float32", "mixed_bfloat16")
        }
        | {"keras predict": ("subjects", "keras_predict", {"scored": SCORED})}
        | {
            f"pytorch {name}": ("pytorch", "inference", {"settings": name, "device": "cuda", "scored": SCORED})
            for name in pytorch
        },
        "waiting": {"Table 1's network": ("subjects", "waiting", {"precision": "mixed_bfloat16", "xla": True})},
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--only", multiple=True, help="Measure these groups alone; repeatable.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("reports/bench/gpu"))
def main(repeats: int, only: tuple[str, ...], out: Path) -> None:
    machine.prepare_environment()
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # subjects share the card
    progress.start_log(None)
    if not machine.choices(trial())["gpus"][0]:
        raise InputError("bench: TensorFlow finds no GPU here. Install tensorflow[and-cuda], or run `make bench`.")
    measured = {}
    out.mkdir(parents=True, exist_ok=True)
    for name, group in groups().items():
        if name in only or not only:
            measured[name] = measure(name, group, repeats, together=True)
            runs.write_json(out / "measured.json", measured)
    results = {
        "rates": {name: rates(group) for name, group in measured.items()},
        "ratios": {
            name: {"median": round(statistics.median(values), 3), "low": round(min(values), 3),
                   "high": round(max(values), 3), "of": of}
            for name, (values, of) in ratios(measured, report.operations()).items() if values
        },
        "device": device(),
        "versions": machine.environment()["packages"] | report.versions(),
    }  # fmt: skip
    runs.write_json(out / "results.json", results)
    (out / "README.md").write_text(page(results), "utf-8")
    progress.log.info("%s", out)


def ratios(measured: dict, operations: dict[str, int]) -> dict[str, tuple[list[float] | None, str]]:
    """Each ratio of every repeat and of which subjects, best against best where no setting is named."""
    ours, two = best(measured, "gan", "bcgan mixed_bfloat16"), best(measured, "gan", "two tapes")
    work = operations["training"] / 1e6
    by_name = {
        f"{phase}_vs_pytorch_best": ratio(measured, phase, *(best(measured, phase, of) for of in ("bcgan", "pytorch")))
        for phase in ("training", "inference")
    } | {
        f"training_batch_{size}_vs_pytorch": ratio(
            measured, "batch", f"bcgan, batch {size}", best(measured, "batch", *(
                f"pytorch{way}, batch {size}" for way in ("", ", CUDA graphs")
            ))
        )
        for size in BATCHES
    }  # fmt: skip
    return by_name | {
        "training_bfloat16_vs_float32": ratio(
            measured, "training", "bcgan mixed_bfloat16, XLA", "bcgan float32, XLA"
        ),
        "training_xla_vs_not": ratio(measured, "training", "bcgan mixed_bfloat16, XLA", "bcgan mixed_bfloat16"),
        "training_of_limit_bfloat16": ratio(measured, "training", "bcgan mixed_bfloat16, XLA", "limit bfloat16", work),
        "gan_step_vs_two_tapes": ratio(measured, "gan", ours, two),
        "gan_step_bfloat16_vs_float32": ratio(measured, "gan", "bcgan mixed_bfloat16, XLA", "bcgan float32, XLA"),
        "gan_step_xla_vs_not": ratio(measured, "gan", "bcgan mixed_bfloat16, XLA", "bcgan mixed_bfloat16"),
    }  # fmt: skip


def device() -> str:
    """The GPU's name and memory."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def page(results: dict) -> str:
    versions = results["versions"]
    lines = [
        "# Speed on a GPU", "",
        "Made by `make gpu`. Ratios are medians over alternating repeats within one run.", "",
        f"{results['device']}; TensorFlow {versions['tensorflow']}, PyTorch {versions['torch'] or 'absent'}.", "",
        "| ratio | median | least to most | of |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, value in results["ratios"].items():
        lines.append(f"| {name} | {value['median']:.2f} | {value['low']:.2f} to {value['high']:.2f} | {value['of']} |")
    return "\n".join(lines + report.rate_tables(results["rates"])) + "\n"


if __name__ == "__main__":
    main()
