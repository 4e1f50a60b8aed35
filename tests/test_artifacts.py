"""Artifacts are found by their key, checked and resumed; an incomplete artifact is never used."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from bcgan import artifacts, runs
from bcgan.artifacts import Cache

KEY = artifacts.make_key("stage", {"a": 1}, {})


class Killed(BaseException):
    pass


def write(folder, text="numbers", file="out.txt"):
    (folder / file).write_text(text)


def interrupt(folder, key, restart=False):
    """Begin to build, write a checkpoint, and be killed."""

    def make(part):
        write(part, "half", "checkpoint")
        raise Killed

    with pytest.raises(Killed):
        artifacts.build(folder, key, make, {}, restart)


@pytest.fixture
def finished(tmp_path):
    artifacts.build(tmp_path / "stage", KEY, write, {"stage": "stage"})
    return tmp_path / "stage"


def test_an_artifact_is_up_to_date_until_something_changes(finished):
    assert artifacts.stale_reason(finished, KEY) is None
    assert "changed" in artifacts.stale_reason(finished, artifacts.make_key("stage", {"a": 2}, {}))
    assert "changed" in artifacts.stale_reason(finished, artifacts.make_key("stage", {"a": 1}, {"x": "y"}))
    manifest = runs.read_json(finished / artifacts.MANIFEST)
    assert (manifest["stage"], manifest["key"]) == ("stage", KEY)
    assert manifest["outputs"] == {"out.txt": runs.hash_file(finished / "out.txt")}


@pytest.mark.parametrize("outside", ["../other.txt", "{}/other.txt"])
def test_a_manifest_cannot_name_files_outside_its_folder(finished, outside):
    outside_file = finished.parent / "other.txt"
    outside_file.write_text("numbers")
    manifest = runs.read_json(finished / "manifest.json")
    manifest["outputs"][outside.format(finished.parent)] = runs.hash_file(outside_file)
    runs.write_json(finished / "manifest.json", manifest)
    assert artifacts.stale_reason(finished, KEY) == "its manifest was not written by bcgan"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda folder: (folder / "out.txt").write_text("other"), "was changed"),
        (lambda folder: (folder / "out.txt").unlink(), "is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not written by bcgan"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not written by bcgan"),
        (lambda folder: (folder / "manifest.json").unlink(), "has not run"),
    ],
)
def test_damage_is_noticed(finished, damage, word):
    damage(finished)
    assert word in artifacts.stale_reason(finished, KEY)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    """File times in the future and a build that ends before it began: only content and key count."""
    folder = tmp_path / "stage"

    def make(part):
        write(part)
        os.utime(part / "out.txt", (time.time() + 1e6, time.time() + 1e6))
        monkeypatch.setattr(time, "time", lambda: 0.0)
        monkeypatch.setattr(time, "gmtime", partial(time.gmtime, 0))

    artifacts.build(folder, KEY, make, {})
    manifest = runs.read_json(folder / "manifest.json")
    assert manifest["finished"].startswith("1970")
    assert 0 <= manifest["seconds"] < 60
    assert artifacts.stale_reason(folder, KEY) is None


def test_an_interrupted_build_resumes_for_the_same_key_only(tmp_path):
    folder, had_checkpoint = tmp_path / "stage", []
    interrupt(folder, "one")
    assert not folder.exists()
    assert artifacts.stale_reason(folder, "one") == "resumes"
    assert artifacts.stale_reason(folder, "two") == "has not run yet"
    artifacts.build(folder, "one", lambda part: had_checkpoint.append((part / "checkpoint").exists()), {})
    interrupt(folder, "one", restart=True)
    artifacts.build(folder, "two", lambda part: had_checkpoint.append((part / "checkpoint").exists()), {})
    assert had_checkpoint == [True, False]


def test_the_seconds_are_those_of_every_attempt(tmp_path):
    folder = tmp_path / "stage"
    part = artifacts.partial_folder(folder)
    for seconds in (30, 20):
        interrupt(folder, "one")
        stopped = (part / artifacts.STATE).stat().st_mtime + seconds
        os.utime(part / "checkpoint", (stopped, stopped))
    artifacts.build(folder, "one", write, {})
    assert runs.read_json(folder / "manifest.json")["seconds"] == pytest.approx(50, abs=2)


def test_a_restart_drops_an_unfinished_build_once(tmp_path):
    folder, had_checkpoint = tmp_path / "stage", []
    for restart in (False, True, True, False):

        def make(part):
            had_checkpoint.append((part / "checkpoint").exists())
            write(part, "half", "checkpoint")
            raise Killed

        with pytest.raises(Killed):
            artifacts.build(folder, "one", make, {}, restart)
    assert had_checkpoint == [False, False, True, True]


def test_finished_files_stay_until_the_next_ones_are_complete(finished):
    interrupt(finished, "two")
    assert artifacts.stale_reason(finished, KEY) is None
    assert (finished / "out.txt").read_text() == "numbers"
    artifacts.build(finished, "three", partial(write, file="new.txt"), {})
    assert {path.name for path in finished.iterdir()} == {"new.txt", "manifest.json"}
    assert not artifacts.partial_folder(finished).exists()


def test_a_complete_build_that_was_not_renamed_is_not_made_again(tmp_path, monkeypatch):
    folder, builds, rename = tmp_path / "stage", [], Path.rename

    def make(part):
        builds.append(1)
        write(part)

    def killed(self, target):
        raise Killed

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        artifacts.build(folder, KEY, make, {})
    monkeypatch.setattr(Path, "rename", rename)
    assert artifacts.stale_reason(folder, KEY) == "resumes"
    artifacts.build(folder, KEY, make, {})
    assert builds == [1]
    assert artifacts.stale_reason(folder, KEY) is None


def test_a_build_without_files_is_discarded(finished):
    def refuse(_):
        raise Killed

    with pytest.raises(Killed):
        artifacts.build(finished, "two", refuse, {})
    artifacts.discard_empty(finished)
    assert not artifacts.partial_folder(finished).exists()
    interrupt(finished, "two")
    artifacts.discard_empty(finished)
    assert artifacts.partial_folder(finished).exists()


def test_a_cached_artifact_is_built_once_for_its_settings_and_inputs(tmp_path):
    cache, built = Cache(tmp_path, "stage"), []

    def get(settings, inputs, cache=cache):
        return cache.get_or_build("cnn", settings, inputs, lambda folder: built.append(1) or write(folder))

    first = get({"a": 1}, {})
    assert get({"a": 1}, {}) == first == get({"a": 1}, {}, Cache(tmp_path, "stage"))
    assert len(built) == 1
    different = {get({"a": 2}, {}), get({"a": 1}, {"file": "hash"})}
    assert len(built) == 3 and first not in different
    assert get({"a": 1}, {}) == first and len(built) == 3  # more than one earlier artifact is kept
    (first / "out.txt").write_text("damaged")
    assert (get({"a": 1}, {}) / "out.txt").read_text() == "numbers" and len(built) == 4
    cache.clear()
    get({"a": 1}, {})
    assert len(built) == 5


def test_prune_keeps_what_finished_stages_use(tmp_path):
    cache = Cache(tmp_path, "stage")
    used, unused = (cache.get_or_build("cnn", {"a": a}, {}, write) for a in (1, 2))
    artifacts.build(tmp_path / "stage", KEY, lambda part: {"cache": [used.name]}, {})
    interrupt(tmp_path / "later", "one")
    size = sum(path.stat().st_size for path in unused.iterdir())
    assert artifacts.prune(tmp_path) > size
    assert used.exists() and not unused.exists() and not artifacts.partial_folder(tmp_path / "later").exists()
    assert artifacts.stale_reason(tmp_path / "stage", KEY) is None
