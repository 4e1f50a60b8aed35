import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bcgan import runs


def test_a_commit_is_that_of_bcgans_own_checkout(tmp_path, monkeypatch):
    """A package that is installed into a checkout of another project has no commit."""
    installed = tmp_path / "lib/bcgan/runs.py"
    installed.parent.mkdir(parents=True)
    for command in (["init"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(runs, "__file__", str(installed))
    assert runs.commit() is None
    shutil.move(tmp_path / "lib/bcgan", tmp_path / "bcgan")
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "bcgan/runs.py"))
    assert len(runs.commit().rstrip("+")) == 12


def test_a_second_run_is_refused_and_names_the_holder_of_the_lock(tmp_path):
    code = f"from bcgan import runs; from pathlib import Path\nwith runs.lock(Path({str(tmp_path)!r})): pass"
    with runs.lock(tmp_path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "InputError" in second.stderr
    assert f"process {os.getpid()}" in second.stderr
    with runs.lock(tmp_path):
        pass


def test_json_is_replaced_atomically(tmp_path, monkeypatch):
    path, write = tmp_path / "x.json", Path.write_text
    runs.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"a": object()})

    def half(self, text, *arguments):
        write(self, text[: len(text) // 2], *arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        runs.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
