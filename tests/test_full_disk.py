"""A disk that fills up during a stage: the run reports it in one sentence and leaves no manifest, and the same command
resumes once there is room. The disk is a small file system in memory that only the tested process sees."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bcgan import artifacts, cli, runs
from tests.conftest import EAGER_BCGAN

STAGES = ("preprocess", "gan", "translate", "features", "classify", "evaluate")
TRIED = STAGES if os.environ.get("BCGAN_KILLS") else ("classify",)  # all of them take minutes
# $1: the file system's size in bytes; $2: where to leave what was written; the rest: the command.
ON_A_SMALL_DISK = """
mkdir -p disk && mount -t tmpfs -o size=$1 tmpfs disk && cp -a run/. disk && left=$2 && shift 2 && cd disk || exit 99
"$@"; code=$?
cp -a . "$left" && exit $code
"""


def _on_a_small_disk(folder: Path, size: int, left: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", str(size), str(left), *command],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def small_disk(tmp_path):
    for name in ("run", "left"):
        (tmp_path / name).mkdir()
    if not shutil.which("unshare") or _on_a_small_disk(tmp_path, 2**20, tmp_path / "left", "true").returncode:
        pytest.skip("no file systems of one's own here (unshare -rm, mount)")
    return tmp_path


@pytest.mark.parametrize("stage", TRIED)
def test_a_disk_that_fills_up_in_a_stage_is_named_and_the_stage_is_done_when_there_is_room(
    stage, small_disk, finished, monkeypatch, eagerly
):
    run, left = small_disk / "run", small_disk / "left"
    shutil.copytree(finished, run, dirs_exist_ok=True)
    later = STAGES[STAGES.index(stage) :]
    stage_bytes = _size(run / "runs/tiny" / stage)
    for name in later:
        shutil.rmtree(run / "runs/tiny" / name)
        shutil.rmtree(run / "runs/tiny/cache" / name, ignore_errors=True)
    command = (*EAGER_BCGAN, "run", "tiny.yaml", "--until", stage)
    ended = _on_a_small_disk(small_disk, _size(run) + stage_bytes // 2, left, *command)

    assert ended.returncode == 1, ended.stderr[-2000:]
    assert "No space left on device" in ended.stderr.splitlines()[-1], ended.stderr[-2000:]
    assert not (left / "runs/tiny" / stage / artifacts.MANIFEST).exists()
    monkeypatch.chdir(left)
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "tiny.yaml", "--until", stage])
    assert stop.value.code == 0
    outputs, finished_outputs = (
        runs.read_json(root / "runs/tiny" / stage / artifacts.MANIFEST)["outputs"] for root in (Path(), finished)
    )
    assert outputs.keys() == finished_outputs.keys()
    assert all(Path("runs/tiny", stage, name).stat().st_size for name in outputs)


def _size(folder: Path) -> int:
    """Bytes in whole pages, as a file system in memory counts them."""
    return sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in folder.rglob("*") if path.is_file())
