"""Time `bcgan predict` on slides beside WSInfer and TIAToolbox, with the same network and with a plain ResNet-18.

Every subject is a complete command, from its start to the file of results, on the same slide. The subjects of a slide
run in turn, `--repeats` times. WSInfer and TIAToolbox need environments of their own, as they need other versions of
libraries: `make bench-slides` makes them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numpy as np
import pandas as pd

from bcgan import machine, progress, runs

MPP, PATCH_PX, PATCH_MPP = 0.5, 50, 4.0
PATCH_SIDE = round(PATCH_PX * PATCH_MPP / MPP)  # of a patch, pixels of the slide
SLIDES = {"a": (10_240, 8_192), "b": (40_960, 32_768)}  # width and height of the first level, pixels
LEVELS = 4  # of the pyramid, each half as large as the one before
TILE = 256
NUM_TEXTURES = 24  # synthetic patches, of which the slides are made
GLASS = 243
MALIGNANT = 1  # column of the malignant class in the network's output
# Runs a command and writes its time and peak memory. A child's peak includes that of the process that started it, which
# has to be small.
TIMER = """
import json, os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
measured = {"seconds": time.perf_counter() - start, "peak_kibibytes": usage.ru_maxrss}
json.dump(measured | {"code": os.waitstatus_to_exitcode(status)}, open("measured.json", "w"))
"""


class Measure(NamedTuple):
    """One run of a command: seconds, peak memory of its process (MiB), and probabilities by corner (x, y)."""

    seconds: float
    peak_mebibytes: float
    probabilities: dict[tuple[int, int], float]


def write_slide(path: Path, size: tuple[int, int], patches: np.ndarray) -> None:
    """Write a pyramid of JPEG tiles: an ellipse of tissue on glass, at MPP microns a pixel.

    Args:
        patches: uint8, (n, PATCH_PX, PATCH_PX, 3). The tissue.
        size: Width and height, pixels. The patches of the grid that begins at the upper left corner are whole squares.
    """
    import tifffile

    squares = [_make_pyramid(patch) for patch in patches]
    width, height = size
    rows, columns = -(-height // PATCH_SIDE), -(-width // PATCH_SIDE)
    choice = np.random.default_rng(0).integers(0, len(squares), (rows, columns))
    y, x = np.mgrid[0:rows, 0:columns]
    choice[((y + 0.5) / rows - 0.5) ** 2 + ((x + 0.5) / columns - 0.5) ** 2 > 0.15] = -1  # glass

    def read(level: int, top: int, left: int) -> np.ndarray:
        """Return a tile of a level, (TILE, TILE, 3)."""
        side = PATCH_SIDE >> level
        tile = np.full((TILE, TILE, 3), GLASS, np.uint8)
        for row in range(top // side, min(rows, -(-(top + TILE) // side))):
            for column in range(left // side, min(columns, -(-(left + TILE) // side))):
                if choice[row, column] >= 0:
                    square = squares[choice[row, column]][level]
                    y, x = row * side - top, column * side - left
                    ys, xs = (slice(max(0, start), min(TILE, start + side)) for start in (y, x))
                    tile[ys, xs] = square[ys.start - y : ys.stop - y, xs.start - x : xs.stop - x]
        return tile

    options = {
        "photometric": "rgb", "tile": (TILE, TILE), "compression": "jpeg", "compressionargs": {"level": 95},
        "resolutionunit": "CENTIMETER", "metadata": None,
    }  # fmt: skip
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(LEVELS):
            shape = (height >> level, width >> level)
            tiles = (read(level, y, x) for y in range(0, shape[0], TILE) for x in range(0, shape[1], TILE))
            per_centimeter = 1e4 / MPP / 2**level
            file.write(
                tiles, shape=(*shape, 3), dtype=np.uint8, subifds=LEVELS - 1 if level == 0 else None,
                subfiletype=1 if level else 0, resolution=(per_centimeter, per_centimeter), **options,
            )  # fmt: skip


def _tissue_patches() -> np.ndarray:
    """Return patches of the generator within bcgan, half of each class: uint8, (n, PATCH_PX, PATCH_PX, 3)."""
    from bcgan.gan.train import sample
    from bcgan.predict.sample import load

    return sample(load(None).generator, np.arange(NUM_TEXTURES, dtype=np.int32) % 2, 0)


def _make_pyramid(patch: np.ndarray) -> list[np.ndarray]:
    """Return a patch at every level of a slide: uint8, (side, side, 3)."""
    square = cv2.resize(patch, (PATCH_SIDE, PATCH_SIDE), interpolation=cv2.INTER_CUBIC)
    sides = [PATCH_SIDE >> level for level in range(LEVELS)]
    return [cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA) for side in sides]


def measure(command: list[str], folder: Path, read: Callable[[Path], dict[tuple[int, int], float]]) -> Measure:
    """Run a command to its end in an empty folder.

    Args:
        folder: Created; the command runs in it.
        read: Reads the probabilities from the folder.

    Raises:
        RuntimeError: If the command fails; the message is the end of what it printed.
    """
    folder.mkdir(parents=True)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "WSINFER_FORCE_CPU": "1"}
    with (folder / "output.txt").open("w+") as output:
        timed = [sys.executable, "-S", "-c", TIMER, *command]
        subprocess.run(timed, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment)
    measured = runs.read_json(folder / "measured.json")
    if measured["code"] not in (0, 3):  # 3: some patches have no probability
        raise RuntimeError(f"{' '.join(command)}: {(folder / 'output.txt').read_text()[-600:]}")
    return Measure(measured["seconds"], measured["peak_kibibytes"] / 1024, read(folder))


def subjects(slide: Path, models: dict[str, Path], wsinfer: str, tiatoolbox: str) -> dict[str, tuple[list[str], Any]]:
    """Return the command of each subject and the function that reads its probabilities.

    Args:
        models: Folders in WSInfer's format: "equal", the network of the classifier within bcgan, and "resnet18".
        wsinfer, tiatoolbox: Interpreters of their environments; without one, "", its subjects are left out.
    """
    predict = [sys.executable, "-m", "bcgan", "predict", str(slide), "--out", "rows.csv"]
    by_name: dict[str, tuple[list[str], Any]] = {
        "bcgan": (predict, _read_rows),
        "bcgan, --fast": ([*predict, "--fast"], _read_rows),
    }
    for name, folder in models.items():
        by_name[f"bcgan, {name} by PyTorch"] = ([*predict, "--model", str(folder)], _read_rows)
        for title, interpreter, read in (
            ("WSInfer", wsinfer, _read_wsinfer), ("TIAToolbox", tiatoolbox, _read_tiatoolbox),
        ):  # fmt: skip
            if interpreter:
                by_name[f"{title}, {name}"] = ([*run_driver(interpreter), title, str(slide), str(folder)], read)
    return by_name


def run_driver(interpreter: str) -> list[str]:
    """Return the beginning of a command that runs slide_engines.py; -P keeps modules beside it from hiding others."""
    return [interpreter, "-P", str(Path(__file__).with_name("slide_engines.py"))]


def _read_rows(folder: Path) -> dict[tuple[int, int], float]:
    table = pd.read_csv(folder / "rows.csv").dropna(subset="probability")
    return _by_corner(table["x"], table["y"], table["probability"])


def _read_wsinfer(folder: Path) -> dict[tuple[int, int], float]:
    table = pd.read_csv(next((folder / "results").rglob("model-outputs-csv/*.csv")))
    return _by_corner(table["minx"], table["miny"], table.iloc[:, 4 + MALIGNANT])


def _read_tiatoolbox(folder: Path) -> dict[tuple[int, int], float]:
    with np.load(folder / "results.npz") as saved:
        corners, probabilities = saved["corners"] * (PATCH_MPP / MPP), saved["probabilities"]  # at the network's scale
    return _by_corner(corners[:, 0], corners[:, 1], probabilities[:, MALIGNANT])


def _by_corner(x, y, probabilities) -> dict[tuple[int, int], float]:
    return {(int(left), int(top)): float(value) for left, top, value in zip(x, y, probabilities, strict=True)}


def compare(reference: dict[tuple[int, int], float], candidate: dict[tuple[int, int], float]) -> dict[str, float | int]:
    """Return the number of corners in both, and the median and largest difference of their probabilities there."""
    shared = reference.keys() & candidate.keys()
    differences = [abs(reference[corner] - candidate[corner]) for corner in shared] or [float("nan")]
    return {"shared": len(shared), "median": statistics.median(differences), "largest": max(differences)}


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--wsinfer", default="", help="Python of an environment with WSInfer.")
@click.option("--tiatoolbox", default="", help="Python of an environment with TIAToolbox.")
@click.option("--slide", "names", type=click.Choice([*SLIDES]), multiple=True, default=[*SLIDES], show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("reports/bench/slides"))
def main(repeats: int, wsinfer: str, tiatoolbox: str, names: tuple[str, ...], out: Path) -> None:
    """Measure, and write slides.json and README.md; earlier results of other slides are kept."""
    machine.prepare_environment()
    progress.start_log(None)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "slides.json"
    by_slide: dict[str, dict[str, Any]] = runs.read_json(path)["slides"] if path.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        models = {name: root / name for name in ("equal", "resnet18")}
        patches = _tissue_patches()
        _write_models(models, patches, root, wsinfer or tiatoolbox)
        for name in names:
            slide = root / f"{name}.tif"
            write_slide(slide, SLIDES[name], patches)
            by_slide[name] = _measure_slide(name, subjects(slide, models, wsinfer, tiatoolbox), repeats, root)
            slide.unlink()
    results = {"slides": {name: by_slide[name] for name in SLIDES if name in by_slide}, "machine": machine.processor()}
    runs.write_json(path, results)
    (out / "README.md").write_text(format_page(results), "utf-8")
    progress.log.info("%s", out)


def _write_models(models: dict[str, Path], patches: np.ndarray, root: Path, interpreter: str) -> None:
    """Write the folders of `subjects`; ResNet-18 by the interpreter of a peer, as it comes with torchvision."""
    from bcgan.predict import model
    from bcgan.predict import wsinfer as wsinfer_format

    wsinfer_format.write(model.load(engine="keras"), patches, models["equal"])
    if not interpreter:
        models.pop("resnet18", None)
        return
    models["resnet18"].mkdir()
    arguments = ["ResNet-18", str(models["equal"]), str(models["resnet18"])]
    subprocess.run([*run_driver(interpreter), *arguments], check=True, cwd=root)


def _measure_slide(name: str, by_subject: dict[str, tuple], repeats: int, root: Path) -> dict[str, Any]:
    """Measure all subjects on one slide, in turn: {subject: {patches, rates, seconds, peak_mebibytes, agreement}}."""
    measures: dict[str, list[Measure]] = {subject: [] for subject in by_subject}
    with progress.bar(repeats * len(by_subject), f"slide {name}", "command") as bar:
        for repeat in range(repeats):
            for index, (subject, (command, read)) in enumerate(by_subject.items()):
                measures[subject].append(measure(command, root / f"{name}-{repeat}-{index}", read))
                bar.update()
    reference = measures["bcgan, equal by PyTorch"][0].probabilities
    return {
        subject: {
            "patches": len(values[0].probabilities),
            "seconds": [round(value.seconds, 2) for value in values],
            "rates": [round(len(value.probabilities) / value.seconds, 1) for value in values],
            "peak_mebibytes": round(max(value.peak_mebibytes for value in values)),
            "agreement": compare(reference, values[0].probabilities) if "equal" in subject else None,
        }
        for subject, values in measures.items()
    }


def format_page(results: dict[str, Any]) -> str:
    """Return README.md: a table for each slide, with patches a second as median (least to most)."""
    lines = [
        "# Slides, beside WSInfer and TIAToolbox", "",
        "Complete commands, from their start to the file of results, by `make bench-slides`. *Equal* is the network of",
        "the classifier within bcgan, as `bcgan export --format wsinfer` writes it: eight orientations of every patch.",
        "*bcgan* runs that network by OpenVINO or LiteRT and adds neighbouring patches. ResNet-18 has random weights,",
        "and the same input. Engines find tissue by rules of their own, so that numbers of patches differ.", "",
    ]  # fmt: skip
    for name, by_subject in results["slides"].items():
        width, height = SLIDES[name]
        lines += [
            f"## {width:,} x {height:,} pixels at {MPP} microns", "",
            "| | patches | patches a second | seconds | peak MiB | largest difference, median |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for subject, row in by_subject.items():
            rates, agreement = row["rates"], row["agreement"]
            difference = agreement and f"{agreement['largest']:.4f}, {agreement['median']:.4f} ({agreement['shared']})"
            rate = f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"
            seconds, peak = statistics.median(row["seconds"]), row["peak_mebibytes"]
            cells = (subject, f"{row['patches']:,}", rate, f"{seconds:.1f}", f"{peak:,}", difference or "")
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    model = results["machine"]
    return "\n".join([*lines, f"{model['name']}, {model['cores']} cores.", ""])


if __name__ == "__main__":
    main()
