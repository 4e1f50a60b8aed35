"""Measure on a GPU, and write reports/bench/gpu/. Batches are on the device already, unless stated otherwise."""

import os
import statistics
import subprocess
from pathlib import Path

import click

from bcgan import machine, progress, runs
from bcgan.bench import report
from bcgan.bench.measure import best_ratios, measure_group, rate_ratios, summarize_rates
from bcgan.bench.pytorch import GRAPHS, SETTINGS
from bcgan.bench.subjects import LARGER_INPUTS, bench_experiment
from bcgan.errors import InputError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STEPS, NUM_SCORED = 100, 16_384
BATCH_SIZES = (64, 256, 1024)
PAPER_BATCH, PAPER_STEPS, PAPER_SCORED = 64, 20, 2048  # of the paper's networks on its crops
COMPILED = "bfloat16, channels last, compiled"
MATMUL_SIZE = {"side": 8192, "times": 20}


def groups() -> dict[str, dict[str, tuple]]:
    """Return the subjects of every group, as `bcgan.bench.__main__.groups`. "XLA": it compiles the whole step."""
    variants = {
        f"{kind}{', XLA' if xla else ''}": {"precision": kind, "xla": xla} for kind in PRECISIONS for xla in (0, 1)
    }
    steps = {"steps": STEPS}
    on_gpu, fastest = {"device": "cuda"} | steps, {"precision": "mixed_bfloat16", "xla": True} | steps
    pytorch = list(SETTINGS | GRAPHS)
    paper_training, paper_inference = {"batch": PAPER_BATCH, "steps": PAPER_STEPS}, {"scored": PAPER_SCORED}
    in_bcgan = {"training": paper_training | {"xla": True}, "inference": paper_inference}
    in_pytorch = {"training": paper_training, "inference": paper_inference | {"batch": PAPER_BATCH}}
    return {
        "training": {f"bcgan {name}": ("subjects", "training", options | steps) for name, options in variants.items()}
        | {f"pytorch {name}": ("pytorch", "training", {"settings": name} | on_gpu) for name in pytorch}
        | {
            f"limit {kind}": ("subjects", "peak_matmul", {"precision": kind} | MATMUL_SIZE)
            for kind in ("float32", "bfloat16")
        },
        "gan": {
            f"bcgan {name}": ("subjects", "gan", options | steps | {"tapes": 1}) for name, options in variants.items()
        }
        | {
            f"two tapes {name}": ("subjects", "gan", options | steps | {"tapes": 2})
            for name, options in variants.items() if "bfloat16" in name
        }
        | {"bcgan, two discriminators": ("subjects", "gan", fastest | {"tapes": 1, "projected_weight": 1.0})}
        | {
            f"pytorch {name}": ("pytorch_gan", "gan", {"settings": name} | on_gpu)
            for name in ("float32, channels last", COMPILED)
        },
        "batch": {
            f"{name} {size}": (module, "training", options | {"batch": size})
            for size in BATCH_SIZES
            for name, module, options in (
                ("bcgan, batch", "subjects", fastest),
                ("pytorch, batch", "pytorch", {"settings": COMPILED} | on_gpu),
                ("pytorch, CUDA graphs, batch", "pytorch", {"settings": next(iter(GRAPHS))} | on_gpu),
            )
        },
        "gan_resnet": {"bcgan training": ("subjects", "training", fastest | {"network": "gan_resnet"})},
        "inference": {
            f"bcgan {kind}": ("subjects", "inference", {"precision": kind, "scored": NUM_SCORED})
            for kind in ("float32", "mixed_bfloat16")
        }
        | {"keras predict": ("subjects", "keras_predict", {"scored": NUM_SCORED})}
        | {
            f"pytorch {name}": ("pytorch", "inference", {"settings": name, "device": "cuda", "scored": NUM_SCORED})
            for name in pytorch
        },
        **{
            f"{network}_{phase}": {
                "bcgan mixed_bfloat16": ("subjects", phase, {"precision": "mixed_bfloat16"} | in_bcgan[phase] | larger),
            }
            | {
                f"pytorch {name}": ("pytorch", phase, in_pytorch[phase] | larger | {"settings": name, "device": "cuda"})
                for name in (COMPILED, *GRAPHS)
            }
            for network, size in LARGER_INPUTS.items()
            for phase in ("training", "inference")
            for larger in ({"network": network, "size": size},)
        },
        "waiting": {"Table 1's network": ("subjects", "input_wait", {"precision": "mixed_bfloat16", "xla": True})},
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--only", multiple=True, help="Measure this group again, and keep the others; repeatable.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("reports/bench/gpu"))
def main(repeats: int, only: tuple[str, ...], out: Path) -> None:
    """Run the benchmark on the GPU and write its report."""
    machine.prepare_environment()
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # subjects share the card
    progress.start_log(None)
    if not machine.choose_settings(bench_experiment())["gpus"][0]:
        raise InputError("bench: TensorFlow finds no GPU here. Install tensorflow[and-cuda], or run `make bench`.")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "measured.json"
    measured = runs.read_json(path) if only and path.exists() else {}
    for name, group in groups().items():
        if name in only or not only:
            measured[name] = measure_group(name, group, repeats, prepare_together=True)
            runs.write_json(path, measured)
    write_report(out, measured)


def write_report(out: Path, measured: dict) -> None:
    """Write results.json and README.md of what `measure_group` returned, by group."""
    results = {
        "rates": {name: summarize_rates(group) for name, group in measured.items()},
        "ratios": {
            name: {"median": round(statistics.median(values), 3), "low": round(min(values), 3),
                   "high": round(max(values), 3), "of": subjects}
            for name, (values, subjects) in ratios(measured, report.count_operations()).items() if values
        },
        "device": device_name(),
        "versions": machine.environment()["packages"] | report.package_versions(),
    }  # fmt: skip
    runs.write_json(out / "results.json", results)
    (out / "README.md").write_text(format_page(results), "utf-8")
    progress.log.info("%s", out)


def ratios(measured: dict, operations: dict[str, int]) -> dict[str, tuple[list[float] | None, str]]:
    """Return every ratio, for each repeat, and its two subjects: the best, if the name has no setting."""
    phases = ("training", "inference")
    by_name = {f"{phase}_vs_pytorch_best": best_ratios(measured, phase, "bcgan", "pytorch") for phase in phases}
    for size in BATCH_SIZES:
        theirs = tuple(f"pytorch{variant}, batch {size}" for variant in ("", ", CUDA graphs"))
        by_name[f"training_batch_{size}_vs_pytorch"] = best_ratios(measured, "batch", f"bcgan, batch {size}", theirs)
    for group in (f"{network}_{phase}" for network in LARGER_INPUTS for phase in phases):
        by_name[f"{group}_vs_pytorch"] = best_ratios(measured, group, "bcgan", "pytorch")
    compiled, millions = "bcgan mixed_bfloat16, XLA", operations["training"] / 1e6
    return by_name | {
        "gan_step_vs_pytorch_best": best_ratios(measured, "gan", "bcgan mixed_bfloat16", "pytorch"),
        "training_bfloat16_vs_float32": rate_ratios(measured, "training", compiled, "bcgan float32, XLA"),
        "training_xla_vs_not": rate_ratios(measured, "training", compiled, "bcgan mixed_bfloat16"),
        "training_of_limit_bfloat16": rate_ratios(measured, "training", compiled, "limit bfloat16", millions),
        "gan_step_vs_two_tapes": best_ratios(measured, "gan", "bcgan mixed_bfloat16", "two tapes"),
        "gan_step_bfloat16_vs_float32": rate_ratios(measured, "gan", compiled, "bcgan float32, XLA"),
        "gan_step_xla_vs_not": rate_ratios(measured, "gan", compiled, "bcgan mixed_bfloat16"),
    }


def device_name() -> str:
    """Return the GPU's name and memory."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def format_page(results: dict) -> str:
    """Return README.md, with the results of all groups."""
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
