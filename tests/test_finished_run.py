"""A finished run is read with the settings that it was made with."""

import pytest

from bcgan import artifacts, execution, experiment, runs
from bcgan.errors import InputError


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("ablation", {"ablation": {"model": "resnet50", "variants": {"loss": {"bce": {"classify.loss": "bce"}}}}}),
        ("cross_validation", {"cross_validation": {"gone": 1}}),
    ],
)
def test_optional_stages_with_outdated_settings_are_left_out(workspace, stage, settings):
    (workspace / f"runs/tiny/{stage}").mkdir()
    runs.write_json(workspace / f"runs/tiny/{stage}" / artifacts.MANIFEST, {"settings": settings})
    loaded, _ = execution.load_finished_run(experiment.load("tiny.yaml"))
    assert (loaded.ablation.variants, loaded.cross_validation.models) == ({}, ())


def test_a_run_with_removed_settings_is_named(workspace):
    path = workspace / "runs/tiny/gan" / artifacts.MANIFEST
    manifest = runs.read_json(path)
    manifest["settings"]["gan"]["gone"] = 1
    runs.write_json(path, manifest)
    with pytest.raises(InputError, match="made with settings that this bcgan does not know. Run: bcgan run tiny"):
        execution.load_finished_run(experiment.load("tiny.yaml"))


def test_settings_that_changed_since_the_run_are_named(workspace, caplog):
    """The run's count: an override that says otherwise is refused, not ignored."""
    path = workspace / "tiny.yaml"
    path.write_text(path.read_text("utf-8").replace("batch_size: 16", "batch_size: 32"), "utf-8")
    loaded, _ = execution.load_finished_run(experiment.load("tiny.yaml"))
    assert loaded.classify.batch_size == 16
    assert "made with other settings, which count: now classify.batch_size=32" in caplog.text
    for override, words in (
        (
            "data.mpp=1",
            r"data\.mpp=1 has no effect: .*tiny was made with another value\. Run: bcgan run tiny --set data",
        ),
        ("classify.models={cnn: {epochs: 3}}", "has no effect"),
        ("gan.steps=5", "has no effect"),
    ):
        with pytest.raises(InputError, match=words):
            execution.load_finished_run(experiment.load("tiny.yaml", (override,)), overrides=(override,))
    for override in ("gan.steps=4", "data.size=50", "report.title=Mine", "gan.checkpoint_interval=9"):
        execution.load_finished_run(experiment.load("tiny.yaml", (override,)), overrides=(override,))
