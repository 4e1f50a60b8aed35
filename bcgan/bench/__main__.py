"""Measure everything in one run, all subjects in alternation, and write reports/bench/."""

import statistics
from collections.abc import Iterable
from pathlib import Path

import click

from bcgan import machine, progress, runs
from bcgan.bench import report
from bcgan.bench.measure import best, measure, of, rates, ratio
from bcgan.bench.pytorch import SETTINGS
from bcgan.bench.subjects import trial

REPEATS = 5
PROFILE, AGREEMENT = "profile", "agreement"
PRECISIONS = {"mixed_bfloat16": "bfloat16", "float32": "float32"}


def groups(precision: str) -> dict[str, dict[str, tuple]]:
    """{group: {subject: (module, maker, arguments, cores)}}; the subjects of a group are timed in turn."""
    ours = dict.fromkeys((precision, "float32"))  # one where they are the same
    training = {f"bcgan {kind}": ("subjects", "training", {"precision": kind}) for kind in ours}
    inference = {f"bcgan {kind}": ("subjects", "inference", {"precision": kind}) for kind in ours}
    limits = {f"limit {kind}": ("subjects", "limit", {"precision": PRECISIONS[kind]}) for kind in ours}
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
            for kind in ours
            for name, tapes in (("bcgan", 1), ("two tapes", 2))
        },
        "input": {
            "reading": ("subjects", "feeding", {"augmented": False}),
            "reading and augmentation": ("subjects", "feeding", {"augmented": True}),
        },
        "waiting": {"Table 1's network": ("subjects", "waiting", {"precision": precision})},
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
        "prediction": {"large image": ("subjects", "slide", {})},
        "start_up": {
            "bcgan --help": ("subjects", "start_up", {}),
            "bcgan predict patch.png": ("subjects", "start_up", {"predicts": True}),
        },
    }


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(1), default=REPEATS, show_default=True)
@click.option("--only", multiple=True, help="Measure a group anew, and keep what was found of the others; repeatable.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("reports/bench"))
def main(repeats: int, only: tuple[str, ...], out: Path) -> None:
    machine.prepare_environment()
    progress.start_log(None)
    chosen = machine.choices(trial())
    precision = chosen["precision"][0]
    out.mkdir(parents=True, exist_ok=True)
    measured_path, written = out / "measured.json", out / "results.json"
    earlier = runs.read_json(written)["versions"] if written.exists() and only else {}
    measured = runs.read_json(measured_path) if measured_path.exists() and only else {}
    for name, group in groups(precision).items():
        if name in only or not only:
            measured[name] = measure(name, group, repeats)
            runs.write_json(measured_path, measured)
    if PROFILE in only or not only:
        measured[PROFILE] = report.profiles(precision)
        runs.write_json(measured_path, measured)
    if AGREEMENT in only or "inference" in only or not only:
        measured[AGREEMENT] = report.agreement()
        runs.write_json(measured_path, measured)
    versions = machine.environment()["packages"] | report.versions()
    profile, agreement, operations = measured.pop(PROFILE, None), measured.pop(AGREEMENT, None), report.operations()
    results = {
        "ratios": {}, "spread": {}, "of": {},
        "rates": {name: rates(group) for name, group in measured.items()},
        "profile": profile,
        "agreement": agreement,
        "operations": operations,
        "machine": machine.processor(),
        "choices": {name: value for name, (value, _) in chosen.items()},
        # What is absent now was there when the groups that are kept were measured.
        "versions": earlier | {name: entry for name, entry in versions.items() if entry or name not in earlier},
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
    """Each ratio of every repeat, numerator and denominator of the same turn through the group; and of which subjects.

    "best": the subject of that kind with the highest median, whatever its precision. Inference's best of ours is the
    best of `faithful`; "tensorflow" has TensorFlow's own, faithful or not.
    """
    by_name, torch = {}, best(measured, "inference", "pytorch")
    ours = best(measured, "inference", *faithful)
    by_name["inference_vs_pytorch_best"] = ratio(measured, "inference", ours, torch)
    by_name["inference_vs_keras_predict"] = ratio(measured, "inference", ours, "keras predict")
    for kind in PRECISIONS.values():
        name = f"inference_openvino_{kind}_vs_pytorch_{kind}"
        by_name[name] = ratio(measured, "inference", f"openvino {kind}", best(measured, "inference", f"pytorch {kind}"))
    for phase, prefix, theirs in (("training", "training", "fit"), ("inference", "inference_tensorflow", "predict")):
        by_name[f"{prefix}_vs_pytorch_best"] = ratio(
            measured, phase, best(measured, phase, "bcgan"), best(measured, phase, "pytorch")
        )
        by_name[f"{prefix}_vs_keras_{theirs}"] = ratio(
            measured, phase, best(measured, phase, "bcgan"), f"keras {theirs}"
        )
        for kind, short in PRECISIONS.items():
            name = f"{prefix}_{short}_vs_pytorch_{short}"
            by_name[name] = ratio(measured, phase, f"bcgan {kind}", best(measured, phase, f"pytorch {short}"))
        work = operations[phase] / 1e6
        by_name[f"{prefix}_of_limit"] = ratio(measured, phase, "bcgan float32", "limit float32", work)
        by_name[f"{prefix}_of_limit_bfloat16"] = ratio(
            measured, phase, "bcgan mixed_bfloat16", "limit mixed_bfloat16", work
        )
    for short, suffix in (("float32", ""), ("bfloat16", "_bfloat16")):
        ours = best(measured, "inference", *(name for name in faithful if name.endswith(short)))
        limit = f"limit {'mixed_' if suffix else ''}{short}"
        by_name[f"inference_of_limit{suffix}"] = ratio(
            measured, "inference", ours, limit, operations["inference"] / 1e6
        )
    by_name["inference_int8_vs_pytorch_best"] = ratio(measured, "inference", "litert int8", torch)
    by_name["gan_step_vs_two_tapes"] = ratio(measured, "gan", f"bcgan {precision}", f"two tapes {precision}")
    waited = of(measured, "waiting", "Table 1's network")
    by_name["waiting_share"] = (waited and [percent / 100 for percent in waited], "time of a training's steps")
    by_name["gan_resnet_training_vs_keras_fit"] = ratio(measured, "gan_resnet", "bcgan training", "keras fit")
    return by_name


if __name__ == "__main__":
    main()
