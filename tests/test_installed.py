"""The installed package works without its sources: a wheel has the experiments, weights and pages."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bcgan
from bcgan import runs
from tests.conftest import made_once
from tests.slides import containers

ROOT = Path(bcgan.__file__).parents[1]
MAX_BYTES = 60 * 10**6
# Commands, separated by `then`, in one process: it imports TensorFlow once. The last line has their exit codes.
IN_ONE_PROCESS = """
import sys
from bcgan import cli
codes = []
for command in " ".join(sys.argv[1:]).split(" then "):
    try:
        cli.main(command.split())
    except SystemExit as stop:
        codes.append(stop.code)
print(codes)
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("installed without its sources")

    def make(folder: Path) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "shared")
        for name in ("bcgan", "pipelines"):
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=ignored)
        for path in (
            *ROOT.glob("requirements*.txt"),
            *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")),
        ):
            shutil.copy(path, folder / "source")
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            folder,
            folder / "source",
        ]
        built = subprocess.run(command, capture_output=True, text=True)
        if "No matching distribution found for setuptools" in built.stderr:
            pytest.skip("pip cannot get setuptools, which builds the wheel")
        assert built.returncode == 0, built.stderr

    return next(made_once(tmp_path_factory, "wheel", make).glob("*.whl"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory, wheel) -> dict[str, str]:
    """The environment variables of a process that finds the installed package and not the sources."""

    def make(folder: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)

    folder = made_once(tmp_path_factory, "installed", make)
    return {**os.environ, "PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # -P: the current folder is not on Python's path, as it is not with the command bcgan.
    command = [sys.executable, "-P", "-m", "bcgan", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_has_every_file_once_and_is_small(wheel):
    assert wheel.stat().st_size < MAX_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("bcgan/pipelines/phantom.yaml") == (ROOT / "pipelines" / "phantom.yaml").read_bytes()
    assert len(names) == len(set(names))
    packaged = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in packaged} == {"bcgan"}
    sources = {path for path in (ROOT / "bcgan").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    sources |= {ROOT / "bcgan" / "pipelines" / path.relative_to(ROOT / "pipelines")
                for path in (ROOT / "pipelines").rglob("*") if path.is_file()}  # fmt: skip
    assert packaged == {path.relative_to(ROOT).as_posix() for path in sources}
    metadata = next(name for name in names if name.endswith("/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(metadata).decode()
    assert f"Version: {bcgan.__version__}" in text
    assert "Requires-Dist: tensorflow" in text


def test_it_lists_and_runs_experiments_in_an_empty_folder(installed, tmp_path):
    listed = run(installed, tmp_path, "list")
    assert listed.returncode == 0
    assert "\nphantom " in listed.stdout
    assert "(yours)" not in listed.stdout
    preprocessed = run(
        installed, tmp_path, "run", "phantom", "--until", "preprocess", "--set", "data.max_patches_per_class=2",
    )  # fmt: skip
    assert preprocessed.returncode == 0, preprocessed.stderr
    assert (tmp_path / "runs" / "phantom" / "preprocess" / "patches.npy").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_a_user_experiment_in_a_home_folder(installed, tmp_path, idc_folder):
    home = tmp_path / "home"
    home.mkdir()
    assert run(installed, tmp_path, "--home", str(home), "init", "mine", "--from", "idc").returncode == 0
    assert "mine " in run(installed, tmp_path, "--home", str(home), "list").stdout
    assert "no experiment 'mine'" in run(installed, tmp_path, "run", "mine").stderr.lower()
    arguments = ("run", "mine", "--until", "preprocess", "--data-dir", str(idc_folder), "--set", "data.protocol=kfold",
                 "--set", "data.eval_sources=null")  # fmt: skip
    completed = subprocess.run(
        [sys.executable, "-P", "-m", "bcgan", *arguments], cwd=tmp_path, env={**installed, "BCGAN_HOME": str(home)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    assert (home / "runs" / "mine" / "preprocess" / "patches.npy").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_it_predicts_samples_and_exports_in_an_empty_folder(installed, tmp_path):
    containers.WRITERS["tiles.tif"](tmp_path / "slide.tif", containers.picture(), (4.0, 4.0))
    predicted = run(installed, tmp_path, "predict", "slide.tif", "--maps", "maps", "--out", "calls.csv")
    assert predicted.returncode in (0, 3), predicted.stderr  # 3: patches are out of distribution
    assert len((tmp_path / "calls.csv").read_text("utf-8").splitlines()) == 1 + containers.ROWS * containers.COLUMNS
    assert list((tmp_path / "maps").rglob("*.geojson"))
    sample = ("sample", "--label", "malignant", "--count", "3")
    export = ("export", "--model", "shipped", "--format", "hub", "--license", "Apache-2.0", "--out", "hub")
    command = [sys.executable, "-P", "-c", IN_ONE_PROCESS, *sample, "then", *export]
    done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[0, 0]", done.stderr
    manifest = runs.read_json(tmp_path / "samples" / "malignant" / "manifest.json")
    assert len(manifest["files"]) == 3
    assert (tmp_path / "hub" / "hub" / "README.md").exists()


@pytest.mark.skipif(not os.environ.get("BCGAN_KILLS"), reason="takes ten minutes; make reliability runs it")
@pytest.mark.timeout(3600)
def test_from_an_empty_folder_to_a_report_and_a_model(installed, tmp_path):
    """The two commands of the README without a clone, then the classifier on a slide."""
    containers.WRITERS["tiles.tif"](tmp_path / "slide.tif", containers.picture(), (4.0, 4.0))
    for line in ("run phantom", "report phantom", "export phantom --out model",
                 "predict slide.tif --model model --maps maps"):  # fmt: skip
        completed = run(installed, tmp_path, *line.split())
        assert completed.returncode in (0, 3), completed.stderr
    assert (tmp_path / "reports" / "phantom" / "report.html").exists()
