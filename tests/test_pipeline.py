"""All stages on small patches, through the command line: stages that are skipped, resumed or refused."""

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bcgan import artifacts, cli, experiment, runs, stages
from bcgan.evaluate import score, synthetic
from bcgan.experiment import Experiment
from bcgan.models import weights
from bcgan.preprocess import store
from tests.conftest import EXPERIMENT
from tests.digest import digest
from tests.forked import Forked, run_bcgan_untraced


def bcgan(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture
def stages_run(monkeypatch):
    """The stages that run, in order."""
    names = []
    watched = tuple(replace(s, run=lambda run, s=s: (names.append(s.name), s.run(run))) for s in stages.STAGES)
    monkeypatch.setattr(stages, "STAGES", watched)
    return names


def raising(error: BaseException):
    """Return a replacement for the work of a stage, which raises `error`."""

    def work(*arguments):
        raise error

    return work


def test_every_stage_writes_what_the_next_reads(finished):
    root = finished / "runs/tiny"
    for stage in stages.stages_until():
        name, manifest = stage.name, json.loads((root / stage.name / "manifest.json").read_text())
        assert manifest["stage"] == name
        assert manifest["outputs"] or name == "pretrain"
        for output, sha256 in manifest["outputs"].items():
            assert runs.hash_file(root / name / output) == sha256
    table, results = score.load(root / "evaluate")
    assert set(table["role"]) == {"validation", "test"}
    assert set(results["metrics"]) == {"gan_resnet", "gan_only", "color_texture_gbdt", "ensemble_spatial_context"}
    assert {row["classifier"] for row in results["comparisons"]} == set(results["metrics"]) - {"gan_resnet"}
    assert results["leak_audit"]["passed"]
    assert (root / "log.txt").read_text().count("done in") == len(stages.stages_until())


def test_status_lists_every_stage_and_how_to_run_optional_ones(workspace, stages_run, capsys):
    assert bcgan("status", "tiny.yaml") == 0
    lines = capsys.readouterr().err.splitlines()[: len(stages.NAMES)]  # the times follow
    assert [line.split()[0] for line in lines] == list(stages.NAMES)
    assert all("up to date" in line for line in lines[: stages.NAMES.index(stages.DEFAULT_LAST_STAGE) + 1])
    assert "--until learning_curve" in lines[-1]
    assert stages_run == []


def test_current_stages_are_skipped_and_reported(workspace, stages_run, capsys, idc_folder):
    assert bcgan("run", "tiny.yaml") == 0
    assert stages_run == []
    assert capsys.readouterr().err.count("skipped, up to date") == len(stages.stages_until())
    settings = Path("tiny.yaml").read_text()
    Path("tiny.yaml").write_text(
        settings.replace(f'dir: ["{idc_folder}"], ', "")
    )  # and the command does not name it either
    assert bcgan("run", "tiny.yaml") == 0
    assert stages_run == []
    assert f"data.dir: as before, {idc_folder}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["--set", "evaluate.tta_views=1"], ["evaluate"]),
        (["--set", "features.num_synthetic=44"], ["features", "classify", "evaluate"]),
        (["--force", "evaluate"], ["evaluate"]),
    ],
)
def test_only_stages_affected_by_a_change_would_run(workspace, change, expected, capsys):
    assert bcgan("run", "tiny.yaml", "--dry-run", *change) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines if "would run" in line] == expected


def test_a_forced_stage_runs_and_no_other(workspace, stages_run, monkeypatch):
    def train(images, labels, settings, seed, folder, xla, class_names):
        (folder / "to_benign.keras").write_bytes(b"a translator")

    monkeypatch.setattr("bcgan.gan.translation.train", train)
    assert bcgan("run", "tiny.yaml", "--force", "translate", "--until", "translate") == 0
    assert stages_run == ["translate"]


def test_a_dry_run_runs_nothing(workspace, stages_run, capsys):
    before = sorted(path for path in workspace.rglob("*"))
    assert bcgan("run", "tiny.yaml", "--dry-run", "--set", "gan.steps=5") == 0
    stderr = capsys.readouterr().err
    assert "gan              would run: other settings than when it ran: gan.steps=5" in stderr
    assert "features         would run: gan will run" in stderr
    assert "preprocess       would be skipped" in stderr
    assert stages_run == []
    assert sorted(path for path in workspace.rglob("*")) == before


def test_a_failed_stage_leaves_no_manifest_and_resumes_later(workspace, monkeypatch, stages_run, capsys):
    run, build = ("run", "tiny.yaml", "--until", "preprocess", "--set", "data.max_patches_per_class=4"), store.build
    monkeypatch.setattr(store, "build", raising(KeyboardInterrupt()))
    assert bcgan(*run) == 130
    assert "run the same command again" in capsys.readouterr().err
    left = [path.name for path in (workspace / "runs/tiny/preprocess.partial").iterdir()]
    assert left == [artifacts.STATE]
    monkeypatch.setattr(store, "build", build)
    assert bcgan(*run) == 0
    assert "preprocess: runs, resumes" in capsys.readouterr().err
    assert stages_run == ["preprocess", "preprocess"]


def test_an_interrupted_run_with_other_settings_costs_nothing(workspace, monkeypatch, stages_run, capsys):
    monkeypatch.setattr(synthetic, "evaluate", raising(KeyboardInterrupt()))
    for views in (1, 4):
        assert bcgan("run", "tiny.yaml", "--set", f"evaluate.tta_views={views}") == 130
    assert stages_run == ["evaluate", "evaluate"]
    assert bcgan("run", "tiny.yaml") == 0
    assert "evaluate: skipped, up to date" in capsys.readouterr().err
    assert stages_run == ["evaluate", "evaluate"]


def test_a_path_that_cannot_be_written_is_named(workspace, monkeypatch, capsys):
    def refuse(path, *rest):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(runs, "write_json", refuse)
    assert bcgan("run", "tiny.yaml", "--set", "evaluate.tta_views=1") == 1
    stderr = capsys.readouterr().err
    assert "bcgan: runs/tiny/evaluate.partial/" in stderr
    assert "Permission denied. Check the disk and its permissions." in stderr
    assert "Traceback" not in stderr


def test_a_report_folder_that_is_read_only_leaves_the_run_intact(workspace, monkeypatch, capsys):
    """The folder of the report cannot be made."""

    def refuse(path, *rest, **options):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert bcgan("report", "tiny.yaml") == 1
    assert "Read-only file system. Check the disk" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    assert bcgan("status", "tiny.yaml") == 0
    assert "up to date" in capsys.readouterr().err


def _exhausted() -> Exception:
    import tensorflow as tf

    return tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


@pytest.mark.parametrize("error", [MemoryError, _exhausted])
def test_out_of_memory_names_the_setting_to_lower(workspace, monkeypatch, capsys, error):
    root = workspace / "runs/tiny"
    monkeypatch.setattr(synthetic, "evaluate", raising(error()))
    assert bcgan("run", "tiny.yaml", "--set", "evaluate.tta_views=1") == 1
    assert "bcgan: evaluate: out of memory. Lower evaluate.num_gan_samples," in capsys.readouterr().err
    assert (root / "evaluate/manifest.json").exists()  # the earlier outputs stay


def test_every_stage_has_its_own_memory_setting():
    tree = Experiment(name="a", data={"name": "histology_phantom"}).model_dump()
    for stage in stages.STAGES:
        part, key = stage.memory_setting.split(".")
        assert part in stage.settings
        assert isinstance(tree[part][key], int)


@pytest.mark.parametrize(
    "change", ["gan.checkpoint_interval=7", "gan.on_mode_collapse=stop", "translate.checkpoint_interval=7"]
)
def test_settings_without_effect_on_outputs_make_no_stage_stale(change):
    before, after = (experiment.load("phantom", overrides) for overrides in ((), (change,)))
    assert before != after
    assert all(stages.stage_settings(stage, before) == stages.stage_settings(stage, after) for stage in stages.STAGES)


def test_a_trained_classifier_is_not_trained_again(workspace, capsys):
    root = workspace / "runs/tiny/classify"
    (root / "manifest.json").unlink()
    (root / "gan_only-seed0.keras").unlink()
    trained = {path: path.stat().st_mtime_ns for path in (workspace / "runs/tiny/cache/classify").rglob("*.keras")}
    assert bcgan("run", "tiny.yaml", "--until", "classify") == 0
    assert "gan_resnet-seed0 is reused" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert (root / "gan_only-seed0.keras").exists()


def test_an_added_classifier_is_the_only_one_that_is_trained(workspace, capsys):
    root = workspace / "runs/tiny/classify"
    before = {path.name: path.read_bytes() for path in root.glob("*.keras")}
    assert bcgan("run", "tiny.yaml", "--until", "classify", "--set", "classify.models.cnn.epochs=1") == 0
    stderr = capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in root.glob("*.keras")}.items() > before.items()
    assert (root / "cnn-seed0.keras").exists()
    for name in before:
        assert f"{name.removesuffix('.keras')} is reused" in stderr


def test_clean_frees_what_no_finished_stage_uses(workspace, capsys):
    assert bcgan("run", "tiny.yaml", "--until", "classify", "--set", "classify.models.gan_only.epochs=2") == 0
    cached = list((workspace / "runs/tiny/cache/classify").iterdir())
    assert len(cached) == 3
    assert bcgan("clean", "tiny") == 0
    assert "MB freed" in capsys.readouterr().err
    assert len(list((workspace / "runs/tiny/cache/classify").iterdir())) == 2
    assert bcgan("clean", workspace / "tiny.yaml") == 0
    for name in ("nowhere", "..", "."):
        assert bcgan("clean", name) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "tiny.yaml", "--data-dir", "/nowhere"], ["/nowhere", "does not exist"]),
        (["run", "tiny.yaml", "--set", "gan.stepz=1"], ["gan.stepz", "steps"]),
        (["run", "tiny.yaml", "--set", "data.num_folds=9"], ["data.num_folds: 9", "there are 8"]),
        (["run", "nowhere"], ["nowhere"]),
        (["report", "tiny.yaml"], ["not finished", "bcgan run tiny"]),
        (["run", "tiny.yaml", "--until", "lunch"], ["lunch"]),
        (["run", "tiny.yaml", "--set", "precision=mixed_float16"], ["mixed_float16", "precision=auto"]),
    ],
)
def test_wrong_use_ends_with_2_and_one_sentence(in_folder, idc_folder, capsys, arguments, words):
    (in_folder / "tiny.yaml").write_text(EXPERIMENT.format(folder=idc_folder), "utf-8")
    assert bcgan(*arguments) == 2
    stderr = capsys.readouterr().err
    for word in words:
        assert word in stderr
    assert "Traceback" not in stderr
    assert not list(in_folder.glob("runs/*/*/manifest.json")) or "mixed" in arguments[-1]


@pytest.mark.parametrize("wrong", [["--data-dir", "/nowhere"], ["--set", "precision=mixed_float16"]])
def test_wrong_input_leaves_a_finished_run_as_it_was(workspace, undrawn, wrong):
    root = workspace / "runs/tiny"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "log.txt"}
    assert bcgan("run", "tiny.yaml", *wrong) == 2
    assert {path: path.read_bytes() for path in before} == before
    assert not list(root.glob("*.partial"))
    assert bcgan("report", "tiny.yaml") == 0


def test_other_patient_lists_make_preprocess_run_again(workspace, stages_run, idc_folder):
    lists = workspace / "lists"
    lists.mkdir()
    for role, patients in {"train": "100 101 102", "validation": "103 104", "test": "105 106 107"}.items():
        (lists / f"{role}.txt").write_text(patients.replace(" ", "\n"))
    settings = ("data.protocol=official", "data.num_folds=null", f"data.split_dir={lists}")
    options = ["--until", "preprocess", *(word for setting in settings for word in ("--set", setting))]
    assert bcgan("run", "tiny.yaml", *options) == 0
    assert bcgan("run", "tiny.yaml", *options) == 0
    (lists / "test.txt").write_text("105\n106\n")
    assert bcgan("run", "tiny.yaml", *options) == 0
    assert stages_run == ["preprocess", "preprocess"]


def test_a_report_refuses_stages_of_different_settings(workspace, capsys):
    assert bcgan("run", "tiny.yaml", "--until", "preprocess", "--set", "data.max_patches_per_class=4") == 0
    assert bcgan("report", "tiny.yaml") == 2
    error = "runs/tiny/gan: its settings, its inputs or bcgan changed. Run: bcgan run tiny"
    assert error in capsys.readouterr().err


def test_a_stage_that_computes_something_else_since_it_ran_runs_again(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    monkeypatch.setitem(artifacts.DEFINITIONS, "evaluate", artifacts.DEFINITIONS["evaluate"] + 1)
    assert bcgan("run", "tiny.yaml", "--dry-run") == 0
    stderr = " ".join(capsys.readouterr().err.split())
    assert "classify would be skipped: up to date" in stderr
    assert "evaluate would run: bcgan computes something else in this stage now" in stderr
    assert bcgan("report", "tiny.yaml") == 2
    error = "runs/tiny/evaluate: its settings, its inputs or bcgan changed. Run: bcgan run tiny"
    assert error in capsys.readouterr().err


def test_a_run_of_another_version_is_made_again(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(artifacts, "__version__", "9.9.9")
    assert bcgan("report", "tiny.yaml") == 2
    assert "inputs or bcgan changed. Run: bcgan run tiny" in capsys.readouterr().err


def test_a_folder_of_other_files_is_not_overwritten(workspace, capsys):
    (workspace / "mine").mkdir()
    (workspace / "mine/thesis.txt").write_text("years of work")
    assert bcgan("report", "tiny.yaml", "--out", "mine") == 2
    assert "contains files of something else" in capsys.readouterr().err
    assert (workspace / "mine/thesis.txt").exists()


def test_a_stage_that_would_run_again_names_the_settings_that_changed(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    for settings, words in (
        (
            ("preprocess.clahe=true",),
            "preprocess would run: other settings than when it ran: preprocess.clahe=true",
        ),
        (("gan.latent_dim=9", "gan.steps=5"), "gan.latent_dim=9"),
        ((), "preprocess would be skipped: up to date"),
    ):
        options = [word for setting in settings for word in ("--set", setting)]
        with pytest.raises(SystemExit) as stop:
            cli.main(["status", "tiny.yaml", *options])
        assert stop.value.code == 0
        stderr = capsys.readouterr().err
        assert words in " ".join(stderr.split())
        assert "bcgan's version changed" not in stderr


@pytest.mark.slow
def test_a_run_interrupted_and_killed_in_the_gan_ends_with_the_same_weights(tmp_path, idc_folder):
    """Ctrl-C, then SIGKILL, each after a new checkpoint; the same command resumes. In the profile repro."""
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT.format(folder=idc_folder), "utf-8")
    overrides = (
        "profile=repro", "gan.steps=12", "gan.checkpoint_interval=2", "gan.sample_grid_interval=12", "data.size=32",
    )  # fmt: skip
    settings = ("--until", "gan", *(f"--set={override}" for override in overrides))
    command, gan = ("run", "tiny.yaml", *settings), tmp_path / "runs/tiny/gan"

    def saved() -> int:
        checkpoint = tmp_path / "runs/tiny/gan.partial/checkpoint.npz"
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    def run(stop: int | None = None) -> tuple[int, str]:
        """Return its exit code and its stderr."""
        before, running = saved(), Forked(run_bcgan_untraced, *command, folder=tmp_path)
        while stop and saved() == before:
            assert running.poll() is None, running.stderr()
            time.sleep(0.02)
        if stop:
            running.send_signal(stop)
        return running.wait()

    def networks() -> list[str]:
        return [digest(weights.load_model(gan / f"{name}.keras").variables) for name in ("generator", "discriminator")]

    assert run()[0] == 0
    expected = networks()
    shutil.rmtree(gan)
    code, stderr = run(signal.SIGINT)
    assert code == 130
    assert "bcgan: interrupted; run the same command again to resume." in stderr
    assert "Traceback" not in stderr
    assert not (gan / "manifest.json").exists()
    assert run(signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (gan / "manifest.json").exists()
    code, stderr = run()
    assert code == 0, stderr[-800:]
    assert "preprocess: skipped, up to date" in stderr
    assert "gan: resuming from step" in stderr
    assert networks() == expected


def test_the_index_keeps_patient_names_as_text(finished):
    index = store.load(finished / "runs/tiny/preprocess").index
    assert pd.api.types.is_string_dtype(index["patient"])
