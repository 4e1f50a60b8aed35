"""Write the report of the benchmark, reports/bench/: numbers, tables and a figure."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from bcgan import ledger, runs

TARGETS = {
    "training_vs_pytorch_best": 1.3, "training_vs_keras_fit": 2.0, "inference_vs_pytorch_best": 1.5,
    "gan_step_vs_two_tapes": 1.5, "gan_96_step_vs_two_tapes": 1.5, "gan_128_step_vs_two_tapes": 1.5,
    "training_of_limit": 0.6, "inference_of_limit": 0.7, "waiting_share": "below 0.03",
}  # fmt: skip
ARCHIVE_PATCHES = 277_524  # of the Breast Histopathology Images
STEPWISE_STAGES = ("gan", "translate", "pretrain")  # whose settings state steps, whatever the number of patches
UNITS = {"start_up": "runs a second", "waiting": "percent of the time"}  # others: patches a second
PROFILE_KINDS = {"before": "keras", "after": "fused", "gan_two_tapes": "two_tapes", "gan": "gan"}
BCGAN_COLOR, OTHERS_COLOR, LIMIT_COLOR = "#009E73", "#888888", "#CC79A7"


def count_operations() -> dict[str, int]:
    """Count the multiplications and additions of a patch in Table 1's network: {inference, training}.

    Only convolutions and dense layers count. Training also propagates to the kernels and, but for the first layer, to
    the inputs. These are the plain network's; the fused model (`bcgan.models.fast`) needs three quarters of them.
    """
    import keras

    from bcgan.models.classifier import build_classifier

    counts = []
    for layer in _layers(build_classifier("resnet_table1")):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            # The fused model convolves before the upsampling.
            num_positions = 1 / 4 if layer.name == "three_channels" else 1
            for size in layer.output.shape[1:-1]:
                num_positions *= size
            counts.append(round(2 * num_positions * int(keras.ops.size(layer.kernel))))
    return {"inference": sum(counts), "training": 3 * sum(counts) - counts[0]}


def package_versions() -> dict[str, str | None]:
    """Return the versions of the packages that bcgan is compared with; `None` if one is not installed."""
    by_package = {}
    for name in ("torch", "onnxruntime", "openvino"):
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            by_package[name] = None
    return by_package


def measure_profiles(precision: str) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a training step by operator, for each of PROFILE_KINDS."""
    return {name: _run_module("profile", precision, kind) for name, kind in PROFILE_KINDS.items()}


def measure_agreement() -> dict[str, dict[str, Any]]:
    """Run `bcgan.bench.agreement.measure_agreement` in a process of its own."""
    return _run_module("agreement")


def _run_module(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of bcgan.bench in a process, and return the JSON in the last line of its output."""
    command = [sys.executable, "-m", f"bcgan.bench.{module}", *arguments]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(process.stdout.splitlines()[-1])


def write(results: dict[str, Any], out: Path) -> None:
    """Write results.json, README.md, tables/ and figures/."""
    from bcgan.report import style

    out.mkdir(parents=True, exist_ok=True)
    runs.write_json(out / "results.json", results)
    rows = []
    for group, subjects in results["rates"].items():
        rows += [{"group": group, "subject": subject, **measures} for subject, measures in subjects.items()]
    figure = _draw_figure(results, pd.DataFrame(rows))
    style.save(figure, out, "rates")
    if results["profile"]:
        profile = pd.DataFrame(results["profile"]).fillna(0).sort_values("before", ascending=False)
        profile.to_csv(out / "tables" / "profile.csv", index_label="operator", float_format="%.3f")
    (out / "README.md").write_text(_page(results, figure.caption), "utf-8")


def _draw_figure(results: dict[str, Any], table: pd.DataFrame):
    """Draw the rates of training and inference, with limits."""
    from bcgan.report import style

    groups = [name for name in ("training", "inference") if name in results["rates"]] or list(results["rates"])[:1]
    figure, axes = style.plt.subplots(len(groups), 1, figsize=(7.5, 3.6 * len(groups)), squeeze=False)
    for axis, group in zip(axes[:, 0], groups, strict=True):
        is_limit = table["subject"].str.startswith("limit")
        measured = table[(table["group"] == group) & table["median"].notna() & ~is_limit].sort_values("median")
        names = measured["subject"]
        is_bcgan = names.str.startswith(("bcgan", "litert", "openvino", "onnx"))
        colors = [BCGAN_COLOR if ours else OTHERS_COLOR for ours in is_bcgan]
        spread = [measured["median"] - measured["low"], measured["high"] - measured["median"]]
        bars = axis.barh(names, measured["median"], color=colors, xerr=spread, ecolor=style.INK, capsize=2)
        for bar, name in zip(bars, names, strict=True):
            if group == "inference" and not (results["agreement"] or {}).get(name, {"faithful": True})["faithful"]:
                bar.set_alpha(0.35)
        for name, measures in results["rates"][group].items():
            if not name.startswith("limit") or not measures["median"]:
                continue
            num_operations = results["operations"]["training" if group == "training" else "inference"]
            rate = measures["median"] * 1e6 / num_operations
            axis.axvline(rate, color=LIMIT_COLOR, linestyle="--" if "float32" in name else ":")
            axis.annotate(
                f"{name.replace('limit', 'limit,').replace('mixed_', '')}", (rate, 0.02), rotation=90, fontsize=8,
                xycoords=("data", "axes fraction"), ha="right", color=LIMIT_COLOR,
            )  # fmt: skip
        axis.set_title(f"Table 1's network, {group}")
        axis.set_xlabel("patches a second (median, and least to most)")
    caption = (
        f"Throughput of Table 1's network on {results['machine']['cores']} cores of {results['machine']['name']}, "
        "subjects in alternation. Green: this project and the files that it exports, pale where probabilities are not "
        "faithful to Keras in float32; grey: others. Limit: what matrix products alone allow in that precision, for "
        "the table's products, its tail's before the upsampling; this project leaves out a quarter of them."
    )
    return style.ReportFigure(figure, table, "Throughput", caption)


def _page(results: dict[str, Any], caption: str) -> str:
    """Return README.md, with the results of all groups."""
    lines = ["# Speed", "", "Made by `make bench`. Ratios are medians over alternating repeats within one run.", ""]
    lines += [
        f"{results['machine']['cores']} cores, {results['machine']['name']}, bfloat16 instructions: "
        f"{', '.join(results['machine']['bfloat16']) or 'none'}; TensorFlow {results['versions']['tensorflow']}, "
        f"PyTorch {results['versions']['torch'] or 'absent'}, "
        f"OpenVINO {results['versions']['openvino'] or 'absent'}.", "",
        "| ratio | median | least to most | aim | of |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, value in results["ratios"].items():
        spread = results["spread"][name]
        cells = ("unknown", "") if value is None else (f"{value:.2f}", f"{spread[0]:.2f} to {spread[1]:.2f}")
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {TARGETS.get(name, '')} | {results['of'].get(name, '')} |")
    lines += ["", "![Patches a second](figures/rates.png)", "", caption]
    if results["agreement"]:
        lines += _agreement_section(results["agreement"])
    if results.get("whole_job"):
        lines += _whole_job_section(results["whole_job"])
    lines += rate_tables(results["rates"])
    if results["profile"]:
        lines += _profile_section(results["profile"])
    return "\n".join(lines) + "\n"


def _whole_job_section(by_run: dict[str, dict[str, Any]]) -> list[str]:
    """Return the section on the time of complete runs, as lines of Markdown.

    For IDC the time of the whole archive is extrapolated: stages that read every patch take as many times longer.
    """
    lines = ["", "## The whole job", "", "Finished runs on this machine; `bcgan status` lists their trainings too.", ""]
    lines += [
        "| run | patches | stage | time | busy cores | the whole archive, extrapolated |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in by_run.items():
        factor = ARCHIVE_PATCHES / run["patches"] if name.startswith("idc") else None
        totals = [0.0, 0.0]
        for stage, entry in run["stages"].items():
            archive_seconds = entry["seconds"] * (1 if stage in STEPWISE_STAGES else factor or 0)
            totals = [totals[0] + entry["seconds"], totals[1] + archive_seconds]
            cores = "" if entry["busy_cores"] is None else f"{entry['busy_cores']:.1f}"
            cells = (name, f"{run['patches']:,}", stage, ledger.format_seconds(entry["seconds"]), cores)
            extrapolated = ledger.format_seconds(archive_seconds) if factor else ""
            lines.append(f"| {' | '.join(cells)} | {extrapolated} |")
        times = [ledger.format_seconds(seconds) for seconds in totals]
        lines.append(f"| {name} | {run['patches']:,} | all | {times[0]} | | {times[1] if factor else ''} |")
    return lines


def _agreement_section(agreement: dict[str, dict[str, Any]]) -> list[str]:
    """Return the section on faithful probabilities, as lines of Markdown."""
    lines = [
        "", "## What is faithful", "",
        "Table 1's network, briefly trained on phantom tissue, and patches of other patients: how far from Keras in",
        "float32. Of ours, best against best counts the faithful: within 0.01 in each probability, 0.002 in AUC.",
        "", "| subject | largest difference of a probability | ROC AUC | faithful |", "|---|---|---|---|",
    ]  # fmt: skip
    for subject, entry in agreement.items():
        faithful = "yes" if entry["faithful"] else "no"
        lines.append(f"| {subject} | {entry['largest_difference']:.1e} | {entry['roc_auc']:.4f} | {faithful} |")
    return lines


def _profile_section(profile: dict[str, dict[str, float]]) -> list[str]:
    """Return the section on the time of a training step, as lines of Markdown."""
    lines = ["", "## Where a training step's time goes", ""]
    lines += ["Milliseconds by kind of operator, summed over threads.", ""]
    classifier_title = "Table 1's network, as Keras computes it and as its fused model does (`bcgan/models/fast.py`):"
    titles = {("before", "after"): classifier_title, ("gan_two_tapes", "gan"): "The GAN, with two tapes and as here:"}
    for (reference_name, name), title in titles.items():
        reference, ours = profile.get(reference_name, {}), profile.get(name, {})
        longest = {operator: max(reference.get(operator, 0), ours.get(operator, 0)) for operator in reference | ours}
        lines += [title, "", f"| operator | {reference_name.replace('_', ' ')} | {name} |", "|---|---|---|"]
        for operator in sorted(longest, key=lambda operator: -longest[operator])[:14]:
            lines.append(f"| {operator} | {reference.get(operator, 0):.1f} | {ours.get(operator, 0):.1f} |")
        lines.append("")
    return lines


def rate_tables(rates: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Return a table for each group, as lines of Markdown."""
    lines = []
    for group, subjects in rates.items():
        unit = UNITS.get(group, "patches a second")
        lines += ["", f"## {group}", "", f"| subject | {unit}, median | least to most | peak memory, MiB |"]
        lines += ["|---|---|---|---|"]
        for subject, measures in subjects.items():
            suffix = " million operations" if subject.startswith("limit") else ""
            cells = (
                (
                    f"{measures['median']:,}{suffix}", f"{measures['low']:,} to {measures['high']:,}",
                    measures["peak_mebibytes"] or "unknown",
                )
                if measures["median"] else (f"left out: {measures['failure']}", "", "")
            )  # fmt: skip
            lines.append(f"| {subject} | {cells[0]} | {cells[1]} | {cells[2]} |")
    return lines


def _layers(network):
    """Yield the layers of a network, and those of nested networks instead of these."""
    import keras

    for layer in network.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else (layer,)
