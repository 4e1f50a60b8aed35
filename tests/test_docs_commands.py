"""The commands of README and docs are run unchanged, in a folder that has the files they name."""

import json
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from bcgan import cli
from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.predict import engines, export
from tests.conftest import EXPERIMENT, draw_patches, untraced, use_few_samples, write_png
from tests.slides import containers
from tests.test_docs import command_lines

# `tests/test_docs.py` parses all commands. These need a server, a cluster, another data set or hours, or have
# their own tests.
NOT_RUN = (
    "serve", "--runner beam", "breakhis", "ucsb", "/shared/", "--trials", "...", "FOLDER", "EXPERIMENT", "init mine",
    "idc_extended", "--format wsinfer", "--format litert", "release my_experiment", "--force gan", "--no-spatial",
    "inception_graph",
)  # fmt: skip
EXPERIMENTS = ("idc", "phantom", "my_experiment")  # named in the commands; `mine` is run instead
MPP = 2.0


@pytest.fixture(scope="module")
def folder(finished, idc_folder, tmp_path_factory) -> Path:
    """Slides, patches, annotations, features, and the tiny run under another name."""
    root = tmp_path_factory.mktemp("docs")
    image = containers.enlarge(containers.picture(), 2, 2)
    for name in ("slide.svs", "slide.tif", "slides/a.tif"):
        (root / name).parent.mkdir(exist_ok=True)
        containers.WRITERS["tiles.tif"](root / name, image, (MPP, MPP))
    write_png(root / "slide.png", image.repeat(4, 0).repeat(4, 1))  # 0.5 microns a pixel, as the command says
    outline = [[0, 0], [100, 0], [100, 200], [0, 200], [0, 0]]
    tumor = {
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [outline]},
        "properties": {"classification": {"name": "Tumor"}},
    }  # fmt: skip
    (root / "geojson").mkdir()
    (root / "geojson" / "a.geojson").write_text(json.dumps(tumor), "utf-8")
    draw_patches(root / "patches")
    draw_patches(root / "archive")
    (root / "archive" / "100").rename(root / "archive" / "8864")
    write_png(root / "patch.png", example_patches(2)[0][1])
    (root / "pipelines").mkdir()
    text = EXPERIMENT.format(folder=idc_folder).replace("name: tiny", "name: mine")
    (root / "pipelines" / "mine.yaml").write_text(text, "utf-8")
    shutil.copytree(finished / "runs" / "tiny", root / "runs" / "mine")
    _write_features(root)
    return root


def _write_features(root: Path) -> None:
    """Write features of other encoders, for the commands of `bcgan probe`."""
    index = (root / "runs/mine/preprocess/index.csv").read_text("utf-8").splitlines()
    ids = [line.split(",")[index[0].split(",").index("id")] for line in index[1:]]
    rng = np.random.default_rng(0)
    np.savez(root / "uni.npz", features=rng.normal(size=(len(ids), 8)), ids=np.array(ids))
    patients = np.repeat([f"p{number}" for number in range(10)], 8)
    labels = np.tile([0, 1], 40)
    np.savez(root / "other.npz", features=rng.normal(size=(80, 8)), labels=labels, patients=patients)
    with h5py.File(root / "slides" / "a.h5", "w") as file:
        file["features"], file["coords"] = rng.normal(size=(80, 8)), [(x, 0) for x in range(80)]
    places = [f"a,{x},0,{label},{patient}" for x, label, patient in zip(range(80), labels, patients, strict=True)]
    (root / "places.csv").write_text("\n".join(["image,x,y,label,patient", *places]), "utf-8")


def commands() -> list[str]:
    """The commands that are run, each once, without their comments."""
    lines = (shlex.join(shlex.split(case.values[0], comments=True)) for case in command_lines("bcgan"))
    chosen = [line for line in lines if not any(part in line for part in NOT_RUN)]
    return [line for line in dict.fromkeys(chosen) if len(line.split()) > 2 or line == "bcgan list"]


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_docs_runs(line, folder, exported, monkeypatch, capsys, undrawn):
    def copy_litert(target: Path) -> None:
        """Write the LiteRT files that `exported` has of the same networks: their conversion takes seconds."""
        for name in engines.LITERT_FILES:
            shutil.copy(exported / name, target)

    monkeypatch.setattr(export, "write_litert", copy_litert)
    monkeypatch.chdir(folder)
    words = ["mine" if word in EXPERIMENTS else word for word in shlex.split(line)[1:]]
    words = [str(name) for word in words for name in (sorted(Path().glob(word)) if "*" in word else [word])]
    use_few_samples(monkeypatch)
    with untraced(), pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code in (0, 3), capsys.readouterr().err  # 3: something was refused
