"""Measure everything in one run, all subjects in alternation, and write reports/bench/."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from bcgan import ledger, machine, progress, runs
from bcgan.artifacts import MANIFEST
from bcgan.bench import report
from bcgan.bench.measure import best_ratios, get_rates, measure_group, rate_ratios, summarize_rates
from bcgan.bench.pytorch import SETTINGS
from bcgan.bench.subjects import LARGER_INPUTS, bench_experiment

REPEATS = 5
PROFILE, AGREEMENT = "profile", "agreement"
LARGER_PATCHES = (96, 128)  # pixels, that the GAN's step is timed on besides 50
LARGER_SETTINGS = (  # of PyTorch, for larger patches
    "float32, channels last", "float32, channels last, compiled", "bfloat16, channels last",
    "bfloat16, channels last, compiled",
)  # fmt: skip
PRECISIONS = {"mixed_bfloat16": "bfloat16", "float32": "float32"}


def groups(precision: str) -> dict[str, dict[str, tuple]]:
    """Return the subjects of every group, which are timed in turn: {group: {subject: arguments of `Worker`}}."""
    precisions = dict.fromkeys((precision, "float32"))  # without duplicates
    training = {f"bcgan {kind}": ("subjects", "training", {"precision": kind}) for kind in precisions}
    inference = {f"bcgan {kind}": ("subjects", "inference", {"precision": kind}) for kind in precisions}
    limits = {f"limit {kind}": ("subjects", "peak_matmul", {"precision": PRECISIONS[kind]}) for kind in precisions}
    return {
        "training": training
        | {"keras fit": ("subjects", "keras_fit", {})}
        | {f"pytorch {name}": ("pytorch", "training", {"settings": name}) for name in SETTINGS}
        | limits,
        "inference": inference
        | {"keras predict": ("subjects", "keras_predict", {})}
        | {f"litert {kind}": ("subjects", "litert", {"quantised": kind == "int8"}) for kind in ("float32", "int8")}
        | {
            f"openvino {kind}": ("subjects", "openvino", {"precision": short})
            for kind, short in (("float32", "f32"), ("bfloat16", "bf16"))
        }
        | {"onnx runtime float32": ("subjects", "onnx", {})}
        | {f"pytorch {name}": ("pytorch", "inference", {"settings": name}) for name in SETTINGS}
        | limits,
        "gan_resnet": {
            "bcgan training": ("subjects", "training", {"precision": precision, "network": "gan_resnet"}),
            "keras fit": ("subjects", "keras_fit", {"network": "gan_resnet"}),
            "bcgan inference": ("subjects", "inference", {"precision": precision, "network": "gan_resnet"}),
            "keras predict": ("subjects", "keras_predict", {"network": "gan_resnet"}),
        },
        "gan": {
            f"{name} {kind}": ("subjects", "gan", {"precision": kind, "tapes": tapes})
            for kind in precisions
            for name, tapes in (("bcgan", 1), ("two tapes", 2))
        },
        **{
            f"gan_{size}": {
                f"{name} {precision}": ("subjects", "gan", {"precision": precision, "tapes": tapes, "size": size})
                for name, tapes in (("bcgan", 1), ("two tapes", 2))
            }
            | {f"pytorch {name}": ("pytorch_gan", "gan", {"settings": name, "size": size}) for name in LARGER_SETTINGS}
            for size in LARGER_PATCHES
        },
        **{
            f"{network}_{phase}": {
                f"bcgan {precision}": ("subjects", phase, {"precision": precision, **arguments}),
            }
            | {f"pytorch {name}": ("pytorch", phase, {"settings": name, **arguments}) for name in LARGER_SETTINGS}
            | (_exported_subjects(arguments) if phase == "inference" else {})
            for network, size in LARGER_INPUTS.items()
            for phase, arguments in (
                ("training", {"network": network, "size": size, "batch": 16 if size > 200 else 64, "steps": 2}),
                ("inference", {"network": network, "size": size, "scored": 64 if size > 200 else 256}),
            )
        },
        "input": {
            "reading": ("subjects", "input_pipeline", {"augmented": False}),
            "reading and augmentation": ("subjects", "input_pipeline", {"augmented": True}),
        },
        "waiting": {"Table 1's network": ("subjects", "input_wait", {"precision": precision})},
        "preparation": {
            f"{2000 * times} PNG files": ("subjects", "preprocess", {"times": times}) for times in (1, 4, 16)
        },
        "batch": {
            f"batch {size}": ("subjects", "training", {"precision": precision, "batch": size})
            for size in (32, 64, 128, 256)
        },
        "cores": {
            f"cores {count}": ("subjects", "training", {"precision": precision}, count)
            for count in range(1, 1 + min(2, machine.processor()["cores"]))
        },
        "prediction": {"large image": ("subjects", "large_image", {})},
        "start_up": {
            "bcgan --help": ("subjects", "start_up", {}),
            "bcgan predict patch.png": ("subjects", "start_up", {"predicts": True}),
        },
    }


def _exported_subjects(arguments: dict[str, Any]) -> dict[str, tuple]:
    """Return the subjects that score patches with exported files, in float32.

    Args:
        arguments: The network, the side of the patches and how many are scored.
    """
    return {
        "openvino float32": ("subjects", "openvino", {"precision": "f32", **arguments}),
        "litert float32": ("subjects", "litert", {"quantised": False, **arguments}),
    }


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(1), default=REPEATS, show_default=True)
@click.option(
    "--only", multiple=True, help="Measure this group again, and keep the earlier results of the others; repeatable."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("reports/bench"))
def main(repeats: int, only: tuple[str, ...], out: Path) -> None:
    """Run the benchmark and write its report."""
    machine.prepare_environment()
    progress.start_log(None)
    settings = machine.choose_settings(bench_experiment())
    precision = settings["precision"][0]
    out.mkdir(parents=True, exist_ok=True)
    measured_path, results_path = out / "measured.json", out / "results.json"
    earlier_versions = runs.read_json(results_path)["versions"] if results_path.exists() and only else {}
    measured = runs.read_json(measured_path) if measured_path.exists() and only else {}
    for name, group in groups(precision).items():
        if name in only or not only:
            measured[name] = measure_group(name, group, repeats)
            runs.write_json(measured_path, measured)
    if PROFILE in only or not only:
        measured[PROFILE] = report.measure_profiles(precision)
        runs.write_json(measured_path, measured)
    if AGREEMENT in only or "inference" in only or not only:
        measured[AGREEMENT] = report.measure_agreement()
        runs.write_json(measured_path, measured)
    versions = machine.environment()["packages"] | report.package_versions()
    profile, agreement = measured.pop(PROFILE, None), measured.pop(AGREEMENT, None)
    operations = report.count_operations()
    results = {
        "ratios": {}, "spread": {}, "of": {},
        "rates": {name: summarize_rates(group) for name, group in measured.items()},
        "profile": profile,
        "agreement": agreement,
        "operations": operations,
        "machine": machine.processor(),
        "choices": {name: value for name, (value, _) in settings.items()},
        "whole_job": read_whole_job(),
        # A package that is not installed now was installed when the groups that are kept were measured.
        "versions": earlier_versions | {
            name: version for name, version in versions.items() if version or name not in earlier_versions
        },
    }  # fmt: skip
    faithful = [name for name, entry in (agreement or {}).items() if entry["faithful"]]
    for name, (values, subjects) in ratios(measured, precision, operations, faithful).items():
        results["ratios"][name] = values and round(statistics.median(values), 3)
        results["of"][name] = subjects
        results["spread"][name] = values and [round(min(values), 3), round(max(values), 3)]
    report.write(results, out)
    for name, value in results["ratios"].items():
        progress.log.info("%-40s %s", name, "unknown" if value is None else f"{value:.2f} {results['spread'][name]}")
    progress.log.info("%s", out)


def ratios(
    measured: dict, precision: str, operations: dict[str, int], faithful: Iterable[str] = ()
) -> dict[str, tuple[list[float] | None, str]]:
    """Return every ratio, for each repeat, and the names of its two subjects, by the ratio's name.

    "best" in a name stands for the subject with the highest median, at any precision. bcgan's best of inference is one
    of `faithful`; with "tensorflow" in the name, it is a TensorFlow network, faithful or not.

    Args:
        operations: From `report.count_operations`.
        faithful: Names of subjects that agree with Keras in float32.
    """
    faithful, millions = tuple(faithful), {phase: count / 1e6 for phase, count in operations.items()}
    rows: dict[str, tuple] = {  # by the ratio's name: the arguments of `best_ratios`
        "inference_vs_pytorch_best": ("inference", faithful, "pytorch"),
        "inference_vs_keras_predict": ("inference", faithful, "keras predict"),
    }
    for kind in PRECISIONS.values():
        name = f"inference_openvino_{kind}_vs_pytorch_{kind}"
        rows[name] = ("inference", f"openvino {kind}", f"pytorch {kind}")
    for phase, prefix, theirs in (("training", "training", "fit"), ("inference", "inference_tensorflow", "predict")):
        rows[f"{prefix}_vs_pytorch_best"] = (phase, "bcgan", "pytorch")
        rows[f"{prefix}_vs_keras_{theirs}"] = (phase, "bcgan", f"keras {theirs}")
        for kind, short in PRECISIONS.items():
            rows[f"{prefix}_{short}_vs_pytorch_{short}"] = (phase, f"bcgan {kind}", f"pytorch {short}")
        rows[f"{prefix}_of_limit"] = (phase, "bcgan float32", "limit float32", millions[phase])
        rows[f"{prefix}_of_limit_bfloat16"] = (phase, "bcgan mixed_bfloat16", "limit mixed_bfloat16", millions[phase])
    for kind, suffix in (("float32", ""), ("mixed_bfloat16", "_bfloat16")):
        ours = tuple(name for name in faithful if name.endswith(PRECISIONS[kind]))
        rows[f"inference_of_limit{suffix}"] = ("inference", ours, f"limit {kind}", millions["inference"])
    rows["inference_int8_vs_pytorch_best"] = ("inference", "litert int8", "pytorch")
    rows["gan_step_vs_two_tapes"] = ("gan", f"bcgan {precision}", f"two tapes {precision}")
    for size in LARGER_PATCHES:
        group, ours = f"gan_{size}", f"bcgan {precision}"
        rows[f"{group}_step_vs_two_tapes"] = (group, ours, f"two tapes {precision}")
        rows[f"{group}_step_vs_pytorch_best"] = (group, ours, "pytorch")
    for network, size in LARGER_INPUTS.items():
        for phase, ours in (("training", "bcgan"), ("inference", ("bcgan", "openvino float32", "litert float32"))):
            rows[f"{network}_{size}_{phase}_vs_pytorch_best"] = (f"{network}_{phase}", ours, "pytorch")
    by_name = {name: best_ratios(measured, *row) for name, row in rows.items()}
    percentages = get_rates(measured, "waiting", "Table 1's network")
    shares = percentages and [percentage / 100 for percentage in percentages]
    by_name["waiting_share"] = (shares, "time of a training's steps")
    by_name["gan_resnet_training_vs_keras_fit"] = rate_ratios(measured, "gan_resnet", "bcgan training", "keras fit")
    return by_name


def read_whole_job() -> dict[str, dict[str, Any]]:
    """Return the time of every finished run below runs/, by name: its patches, and seconds and busy cores by stage."""
    by_run: dict[str, dict[str, Any]] = {}
    for root in sorted(path for path in runs.root().glob("*") if (path / "evaluate" / MANIFEST).exists()):
        entries = [entry for entry in ledger.read(root) if not entry.training]
        by_run[root.name] = {
            "patches": runs.read_json(root / "preprocess" / "audit.json")["kept"],
            "stages": {entry.stage: {"seconds": entry.seconds, "busy_cores": entry.busy_cores} for entry in entries},
        }
    return by_run


if __name__ == "__main__":
    main()
