import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from bcgan import runs


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "stage"
    key = runs.key_of("stage", {"a": 1}, {})
    runs.begin(folder, key)
    (folder / "out.txt").write_text("numbers")
    runs.finish(folder, key, "stage", {"a": 1}, {}, time.monotonic())
    return folder, key


def test_a_finished_stage_is_current_until_something_changes(finished):
    folder, key = finished
    assert runs.why_stale(folder, key) is None
    assert "changed" in runs.why_stale(folder, runs.key_of("stage", {"a": 2}, {}))
    assert "changed" in runs.why_stale(folder, runs.key_of("stage", {"a": 1}, {"x": "y"}))


@pytest.mark.parametrize("outside", ["../other.txt", "{}/other.txt"])
def test_a_manifest_cannot_name_files_outside_its_stage(finished, outside):
    folder, key = finished
    other = folder.parent / "other.txt"
    other.write_text("numbers")
    manifest = runs.read_json(folder / "manifest.json")
    manifest["outputs"][outside.format(folder.parent)] = runs.hash_file(other)
    runs.write_json(folder / "manifest.json", manifest)
    assert runs.why_stale(folder, key) == "its manifest is not one of ours"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda folder: (folder / "out.txt").write_text("other"), "was changed"),
        (lambda folder: (folder / "out.txt").unlink(), "is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not one of ours"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not one of ours"),
        (lambda folder: (folder / "manifest.json").unlink(), "has not run"),
    ],
)
def test_damage_is_seen(finished, damage, word):
    folder, key = finished
    damage(folder)
    assert word in runs.why_stale(folder, key)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    """Files of tomorrow, a stage that ends years before it began: what is current is told by content alone."""
    folder, began, key = tmp_path / "stage", time.monotonic(), "key"
    runs.begin(folder, key)
    (folder / "out.txt").write_text("numbers")
    os.utime(folder / "out.txt", (time.time() + 1e6, time.time() + 1e6))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "gmtime", partial(time.gmtime, 0))
    runs.finish(folder, key, "stage", {}, {}, began)
    manifest = runs.read_json(folder / "manifest.json")
    assert manifest["finished"].startswith("1970")
    assert 0 <= manifest["seconds"] < 60
    assert runs.why_stale(folder, key) is None


def test_unfinished_work_stays_for_the_same_key_only(tmp_path):
    folder = tmp_path / "stage"
    runs.begin(folder, "one")
    (folder / "checkpoint").write_text("half")
    assert runs.why_stale(folder, "one") == "resumes"
    runs.begin(folder, "one")
    assert (folder / "checkpoint").exists()
    runs.begin(folder, "two")
    assert not (folder / "checkpoint").exists()


def test_the_seconds_are_those_of_every_part(tmp_path):
    folder = tmp_path / "stage"
    for part in (30, 20):
        runs.begin(folder, "one")
        (folder / "checkpoint").write_text("half")
        stopped = (folder / "unfinished.json").stat().st_mtime + part
        os.utime(folder / "checkpoint", (stopped, stopped))
    runs.begin(folder, "one")
    runs.finish(folder, "one", "stage", {}, {}, time.monotonic() - 5)
    assert runs.read_json(folder / "manifest.json")["seconds"] == pytest.approx(55, abs=2)


def test_what_was_begun_afresh_is_resumed_and_other_work_is_set_aside(tmp_path):
    folder = tmp_path / "stage"
    runs.begin(folder, "one")
    for afresh, kept in ((False, True), (True, False), (True, True), (False, True)):
        (folder / "checkpoint").write_text("half")
        runs.begin(folder, "one", afresh=afresh)
        assert (folder / "checkpoint").exists() is kept


def test_whole_work_outlives_other_work_that_was_stopped_and_is_given_back(finished):
    folder, key = finished
    for other in ("two", "three"):
        runs.begin(folder, other)
        assert not runs.undo(folder, other)
        (folder / "checkpoint").write_text("half")
        assert not runs.undo(folder)  # what was done stays, to be gone on with
    assert runs.undo(folder, key)
    assert runs.why_stale(folder, key) is None
    assert (folder / "out.txt").read_text() == "numbers"
    assert not runs.aside(folder).exists()
    runs.begin(folder, "four")
    assert runs.undo(folder)
    assert runs.why_stale(folder, key) is None
    runs.begin(folder, "five")
    shutil.rmtree(folder)
    assert runs.undo(folder, key)
    assert runs.why_stale(folder, key) is None


def test_a_commit_is_that_of_bcgans_own_checkout(tmp_path, monkeypatch):
    """Installed into a folder of another project's checkout, it has none."""
    installed = tmp_path / "lib/bcgan/runs.py"
    installed.parent.mkdir(parents=True)
    for command in (["init"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(runs, "__file__", str(installed))
    assert runs.commit() is None
    shutil.move(tmp_path / "lib/bcgan", tmp_path / "bcgan")
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "bcgan/runs.py"))
    assert len(runs.commit().rstrip("+")) == 12


def test_a_second_run_is_kept_out_and_told_who_holds_the_lock(tmp_path):
    code = f"from bcgan import runs; from pathlib import Path\nwith runs.lock(Path({str(tmp_path)!r})): pass"
    with runs.lock(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "InputError" in other.stderr
    assert f"process {os.getpid()}" in other.stderr
    with runs.lock(tmp_path):
        pass


def test_json_is_replaced_at_once(tmp_path, monkeypatch):
    path, write = tmp_path / "x.json", Path.write_text
    runs.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"a": object()})

    def half(self, text, *given):
        write(self, text[: len(text) // 2], *given)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        runs.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
