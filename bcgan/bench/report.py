"""reports/bench/: the numbers, a table to read and a figure."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from bcgan import runs

TARGETS = {
    "training_vs_pytorch_best": 1.3, "training_vs_keras_fit": 2.0, "inference_vs_pytorch_best": 1.5,
    "gan_step_vs_two_tapes": 1.5, "training_of_limit": 0.6, "inference_of_limit": 0.7, "waiting_share": "below 0.03",
}  # fmt: skip
UNITS = {"start_up": "runs a second", "waiting": "percent of the time"}  # of the others patches a second
PROFILED = {"before": "keras", "after": "quick", "gan_two_tapes": "two_tapes", "gan": "gan"}
OURS, THEIRS, LIMIT = "#009E73", "#888888", "#CC79A7"


def operations() -> dict[str, int]:
    """Multiplications and additions of a patch in Table 1's network with its head, convolutions and dense layers
    alone: {inference, training}; training propagates to the kernels and, behind the first layer, to the maps. These are
    the table's, of which its fused model (`bcgan.models.fast`) needs three quarters."""
    import keras

    from bcgan.models.classifier import classifier

    counts = []
    for layer in _layers(classifier("resnet_table1")):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            places = 1 / 4 if layer.name == "three_channels" else 1  # the fused model convolves before it enlarges
            for side in layer.output.shape[1:-1]:
                places *= side
            counts.append(round(2 * places * int(keras.ops.size(layer.kernel))))
    return {"inference": sum(counts), "training": 3 * sum(counts) - counts[0]}


def versions() -> dict[str, str | None]:
    by_package = {}
    for name in ("torch", "onnxruntime", "openvino"):
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            by_package[name] = None
    return by_package


def profiles(precision: str) -> dict[str, dict[str, float]]:
    """Milliseconds a training step by operator, a column of PROFILED each."""
    return {name: _answer("profile", precision, kind) for name, kind in PROFILED.items()}


def agreement() -> dict[str, dict[str, Any]]:
    """By subject of inference: largest_difference, roc_auc and faithful, as `bcgan.bench.agreement` has them."""
    return _answer("agreement")


def _answer(module: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"bcgan.bench.{module}", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write(results: dict[str, Any], out: Path) -> None:
    """results.json, README.md, tables/ and figures/."""
    from bcgan.report import style

    out.mkdir(parents=True, exist_ok=True)
    runs.write_json(out / "results.json", results)
    rows = [
        {"group": g, "subject": subject, **measures}
        for g, part in results["rates"].items()
        for subject, measures in part.items()
    ]
    drawn = _figure(results, pd.DataFrame(rows))
    style.save(drawn, out, "rates")
    if results["profile"]:
        profile = pd.DataFrame(results["profile"]).fillna(0).sort_values("before", ascending=False)
        profile.to_csv(out / "tables" / "profile.csv", index_label="operator", float_format="%.3f")
    (out / "README.md").write_text(_page(results, drawn.caption), "utf-8")


def _figure(results: dict[str, Any], table: pd.DataFrame):
    from bcgan.report import style

    groups = [name for name in ("training", "inference") if name in results["rates"]] or list(results["rates"])[:1]
    figure, axes = style.plt.subplots(len(groups), 1, figsize=(7.5, 3.6 * len(groups)), squeeze=False)
    for axis, group in zip(axes[:, 0], groups, strict=True):
        part = table[(table["group"] == group) & table["median"].notna() & ~table["subject"].str.startswith("limit")]
        part = part.sort_values("median")
        colours = [
            OURS if name.startswith(("bcgan", "litert", "openvino", "onnx")) else THEIRS for name in part["subject"]
        ]
        spread = [part["median"] - part["low"], part["high"] - part["median"]]
        bars = axis.barh(part["subject"], part["median"], color=colours, xerr=spread, ecolor=style.INK, capsize=2)
        for bar, name in zip(bars, part["subject"], strict=True):
            if group == "inference" and not (results["agreement"] or {}).get(name, {"faithful": True})["faithful"]:
                bar.set_alpha(0.35)
        limits = {k: v["median"] for k, v in results["rates"][group].items() if k.startswith("limit") and v["median"]}
        for name, value in limits.items():
            rate = value * 1e6 / results["operations"]["training" if group == "training" else "inference"]
            axis.axvline(rate, color=LIMIT, linestyle="--" if "float32" in name else ":")
            axis.annotate(
                f"{name.replace('limit', 'limit,').replace('mixed_', '')}", (rate, 0.02), rotation=90, fontsize=8,
                xycoords=("data", "axes fraction"), ha="right", color=LIMIT,
            )  # fmt: skip
        axis.set_title(f"Table 1's network, {group}")
        axis.set_xlabel("patches a second (median, and least to most)")
    caption = (
        f"Throughput of Table 1's network on {results['machine']['cores']} cores of {results['machine']['name']}, "
        "subjects in alternation. Green: this project and the files that it exports, pale where probabilities are not "
        "faithful to Keras in float32; grey: others. Limit: what matrix products alone allow in that precision, for "
        "the table's products, its tail's before the upsampling; this project leaves out a quarter of them."
    )
    return style.Drawn(figure, table, "Throughput", caption)


def _page(results: dict[str, Any], caption: str) -> str:
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
        lines += ["", "## What is faithful", ""]
        lines += [
            "Table 1's network, briefly trained on phantom tissue, and patches of other patients: how far from Keras in"
        ]
        lines += [
            "float32. Of ours, best against best counts the faithful: within 0.01 in each probability, 0.002 in AUC."
        ]
        lines += ["", "| subject | largest difference of a probability | ROC AUC | faithful |", "|---|---|---|---|"]
        for subject, entry in results["agreement"].items():
            cells = (
                f"{entry['largest_difference']:.1e} | {entry['roc_auc']:.4f} | {'yes' if entry['faithful'] else 'no'}"
            )
            lines.append(f"| {subject} | {cells} |")
    lines += rate_tables(results["rates"])
    if results["profile"]:
        lines += ["", "## Where a training step's time goes", ""]
        lines += ["Milliseconds by kind of operator, summed over threads.", ""]
        titles = {
            (
                "before",
                "after",
            ): "Table 1's network, as Keras computes it and as its fused model does (`bcgan/models/fast.py`):",
            ("gan_two_tapes", "gan"): "The GAN, with two tapes and as here:",
        }
        for pair, title in titles.items():
            entry, reference = (results["profile"].get(name, {}) for name in pair)
            lines += [title, "", f"| operator | {pair[0].replace('_', ' ')} | {pair[1]} |", "|---|---|---|"]
            for name in sorted(entry | reference, key=lambda n: -max(entry.get(n, 0), reference.get(n, 0)))[:14]:
                lines.append(f"| {name} | {entry.get(name, 0):.1f} | {reference.get(name, 0):.1f} |")
            lines.append("")
    return "\n".join(lines) + "\n"


def rate_tables(rates: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """A table a group, as lines of Markdown."""
    lines = []
    for group, part in rates.items():
        unit = UNITS.get(group, "patches a second")
        lines += ["", f"## {group}", "", f"| subject | {unit}, median | least to most | peak memory, MiB |"]
        lines += ["|---|---|---|---|"]
        for subject, measures in part.items():
            unit = " million operations" if subject.startswith("limit") else ""
            cells = (
                (
                    f"{measures['median']:,}{unit}", f"{measures['low']:,} to {measures['high']:,}",
                    measures["peak_mebibytes"] or "unknown",
                )
                if measures["median"] else (f"left out: {measures['failure']}", "", "")
            )  # fmt: skip
            lines.append(f"| {subject} | {cells[0]} | {cells[1]} | {cells[2]} |")
    return lines


def _layers(network):
    import keras

    for layer in network.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else (layer,)
