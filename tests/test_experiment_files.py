"""The file that belongs to the name of an experiment."""

import os

import pytest

from bcgan import cli, experiment, experiment_files, runs
from bcgan.errors import InputError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_home", tmp_path)
    return tmp_path


def test_a_new_experiment_is_a_copy_that_loads(home):
    path = experiment_files.init("mine", "idc")
    assert path == home / "pipelines" / "mine.yaml"
    mine, idc = experiment.load("mine"), experiment.load("idc")
    assert mine.model_dump(exclude={"name"}) == idc.model_dump(exclude={"name"})
    text = path.read_text("utf-8")
    assert "EXPERIMENT=mine" in text
    assert "EXPERIMENT=idc" not in text
    assert experiment_files.list_all()["mine"].is_own
    assert not experiment_files.list_all()["idc"].is_own


@pytest.mark.parametrize("name", ["Mine", "1st", "a b", "../escape", "a.yaml", ""])
def test_an_invalid_name_is_refused(home, name):
    with pytest.raises(InputError, match="no name of an experiment"):
        experiment_files.init(name, "folder")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["idc", "mine"])
def test_a_name_that_is_taken_is_refused(home, name):
    experiment_files.init("mine", "folder")
    with pytest.raises(InputError, match=f"{name} exists already: .*{name}.yaml"):
        experiment_files.init(name, "folder")


def test_a_user_file_with_an_included_name_must_be_identical(home):
    (home / "pipelines").mkdir()
    user_file, included = home / "pipelines" / "phantom.yaml", experiment_files.INCLUDED / "phantom.yaml"
    user_file.write_bytes(included.read_bytes())
    assert experiment_files.find("phantom") == user_file
    user_file.write_bytes(included.read_bytes() + b"seed: 3\n")
    with pytest.raises(InputError, match="has the name of an experiment that comes with bcgan, phantom"):
        experiment_files.find("phantom")
    assert experiment.load(str(user_file)).seed == 3
    assert experiment_files.find("idc") == experiment_files.INCLUDED / "idc.yaml"
    assert experiment_files.list_all()["phantom"].is_own


def test_an_unknown_name_is_answered_with_the_known_ones(home):
    with pytest.raises(InputError, match=r"No experiment 'idk'.* phantom.*bcgan init idk"):
        experiment_files.find("idk")
    with pytest.raises(InputError, match="nowhere.yaml does not exist"):
        experiment_files.find("nowhere.yaml")


def test_a_home_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="takes no files from this user"):
        runs.set_home(tmp_path)


def test_experiments_are_listed_without_write_permission(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["list"])
    assert stop.value.code == 0
    assert "phantom" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_is_named_with_the_cause(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: Gewebeprobe für Ärzte".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml cannot be read .*Save it as UTF-8"):
        experiment_files.read_text(tmp_path / "latin.yaml")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)\. Check its path and its permissions"):
        experiment_files.read_text(tmp_path)


def test_an_unreadable_file_fails_only_commands_that_load_it(home, capsys):
    (home / "pipelines").mkdir()
    (home / "pipelines" / "latin.yaml").write_bytes(b"# F\374r\nname: latin\n")
    (home / "pipelines" / "folder_of.yaml").mkdir()
    (home / "pipelines" / "dangling.yaml").symlink_to(home / "nowhere")
    assert experiment.load("phantom").name == "phantom"
    with pytest.raises(SystemExit):
        cli.main(["list"])
    listing = capsys.readouterr().out
    assert "latin" in listing
    assert "cannot be read" in listing
    assert "dangling" not in listing
    for name in ("latin", str(home / "pipelines" / "latin.yaml")):
        with pytest.raises(InputError, match="latin.yaml cannot be read"):
            experiment.load(name)
    with pytest.raises(InputError, match="latin.yaml cannot be read"):
        experiment_files.init("mine", "latin")


def test_a_home_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        runs.set_home(tmp_path / "missing")
    assert runs.home() != tmp_path / "missing"


def test_every_summary_is_one_line_of_20_to_200_characters():
    for name, file in experiment_files.list_all().items():
        summary = experiment_files.summarize(file.path)
        assert 20 < len(summary) < 200, name
        assert "\n" not in summary
