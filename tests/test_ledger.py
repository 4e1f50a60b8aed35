"""The time that each stage and training of a run took."""

import pytest

from bcgan import cli, ledger, runs
from bcgan.ledger import Entry


def write(folder, **fields):
    folder.mkdir(parents=True)
    runs.write_json(folder / "manifest.json", {"peak_memory_mib": 100, "busy_cores": 1.5, **fields})


def test_stages_are_listed_in_order_of_completion_with_their_longest_trainings(tmp_path):
    write(tmp_path / "classify", seconds=90.0, finished="2026-01-02", cache=["short-k1", "long-k2", "gone-k3"])
    write(tmp_path / "gan", seconds=9.0, finished="2026-01-01")
    write(tmp_path / "evaluate.partial", seconds=500.0, finished="2026-01-03")  # still running: not counted
    write(tmp_path / "cache/classify/short-k1", seconds=1.0, finished="2026-01-01")  # less than 2 % of 99 seconds
    write(tmp_path / "cache/classify/long-k2", seconds=60.0, finished="2026-01-01")
    assert ledger.read(tmp_path) == [
        Entry("gan", "", 9.0, 1.5, 100), Entry("classify", "", 90.0, 1.5, 100),
        Entry("classify", "long", 60.0, 1.5, 100),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"seconds": 3}'])
def test_a_manifest_that_bcgan_did_not_write_is_left_out(tmp_path, text):
    write(tmp_path / "gan", seconds=9.0, finished="2026-01-01")
    (tmp_path / "classify").mkdir()
    (tmp_path / "classify/manifest.json").write_text(text, "utf-8")
    assert [entry.stage for entry in ledger.read(tmp_path)] == ["gan"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (89.4, "89 s"), (90, "2 min"), (3541, "59 min"), (3580, "1 h 0 min"), (5880, "1 h 38 min")],
)  # fmt: skip
def test_durations_are_formatted_for_people(seconds, text):
    assert ledger.format_seconds(seconds) == text


def test_status_shows_how_long_each_stage_took(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    entries = {entry.stage: entry for entry in ledger.read(finished / "runs/tiny") if not entry.training}
    assert list(entries) == ["preprocess", "gan", "translate", "features", "pretrain", "classify", "evaluate"]
    assert all(entry.busy_cores > 0 for entry in entries.values())
    with pytest.raises(SystemExit) as stop:
        cli.main(["status", "tiny.yaml"])
    assert stop.value.code == 0
    output = capsys.readouterr().err
    assert "up to date" in output
    assert f"{entries['evaluate'].busy_cores:.1f} cores busy" in output
