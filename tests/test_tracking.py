"""Trackers show what the training logs contain, also after a resumed training."""

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from tensorflow.core.util import event_pb2

from bcgan import experiment, progress, tracking
from bcgan.errors import InputError
from tests.conftest import write_png

needs_tensorboard = pytest.mark.skipif(not find_spec("tensorboard"), reason="TensorBoard is not installed")


def make_experiment(*trackers: str):
    return experiment.load("phantom", (f"track=[{','.join(trackers)}]",))


def read_events(folder) -> list:
    import tensorflow as tf

    (path,) = folder.glob("events.out.tfevents.*")
    return [event_pb2.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    import tensorflow as tf

    values: dict[str, list[tuple[int, float]]] = {}
    for event in read_events(folder):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                number = float(tf.make_ndarray(value.tensor))
                values.setdefault(value.tag, []).append((event.step, pytest.approx(number, abs=1e-6)))
    return values


@needs_tensorboard
def test_a_resumed_training_shows_each_step_once(tmp_path):
    log = tmp_path / "gan.partial" / "log.jsonl"
    log.parent.mkdir()
    with tracking.tracked(make_experiment("tensorboard"), tmp_path):
        for step in (10, 20, 30):
            progress.append_jsonl(log, step=step, loss=step / 100, note="text is left out")
    progress.truncate_jsonl(log, "step", 20)  # the checkpoint is of step 20
    with tracking.tracked(make_experiment("tensorboard"), tmp_path):
        for step in (20, 30, 40):
            progress.append_jsonl(log, step=step, loss=step / 10)
    logged = scalars(tmp_path / "tensorboard" / "gan")
    assert logged == {"loss": [(10, 0.1), (20, 2.0), (30, 3.0), (40, 4.0)]}
    progress.append_jsonl(log, step=50, loss=1)  # nothing is sent after the block
    assert scalars(tmp_path / "tensorboard" / "gan") == logged


@needs_tensorboard
def test_grids_settings_and_metrics_are_shown(tmp_path):
    log, evaluated = tmp_path / "gan.partial" / "log.jsonl", tmp_path / "evaluate"
    write_png(log.parent / "grids" / "step_000010.png", np.full((4, 6, 3), 200, np.uint8))
    evaluated.mkdir()
    figures = {"roc_auc": {"value": 0.9}, "f1": {"value": None}}
    (evaluated / "metrics.json").write_text(json.dumps({"cnn": {"sets": {"test": figures}}}))
    with tracking.tracked(make_experiment("tensorboard"), tmp_path) as tracked:
        progress.append_jsonl(log, step=10, loss=0.5)
        progress.append_jsonl(log, step=20, loss=0.5)
        tracked.on_stage("classify", tmp_path)
        tracked.on_stage("evaluate", evaluated)
    images = [
        (event.step, [int(size) for size in value.tensor.string_val[:2]])
        for event in read_events(tmp_path / "tensorboard" / "gan")
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "images"
    ]
    assert images == [(10, [6, 4])]
    assert scalars(tmp_path / "tensorboard" / "evaluate" / "cnn") == {"test/roc_auc": [(0, 0.9)]}
    (text,) = [
        value.tensor.string_val[0].decode()
        for event in read_events(tmp_path / "tensorboard" / "evaluate")
        for value in event.summary.value
    ]
    assert "name: phantom" in text


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("gan.partial/log.jsonl", "gan"),
        ("pretrain/log.jsonl", "pretrain"),
        ("cache/classify/cnn-seed0-abc.partial/cnn-seed0.jsonl", "classify/cnn-seed0"),
        ("cache/learning_curve/gan-0.1-seed0-abc.partial/log.jsonl", "learning_curve/gan-0.1-seed0"),
        *(
            (f"cache/learning_curve/{cell}-abc.partial/reference_cnn.jsonl", f"learning_curve/{cell}")
            for cell in ("0.1-reference_cnn-seed0", "0.1-reference_cnn-seed1", "1-reference_cnn-seed0")
        ),
        ("cache/cross_validation/cnn-fold1-abc/cnn-fold1-abc.jsonl", "cross_validation/cnn-fold1"),
        ("features.partial/reference_cnn.jsonl", "features/reference_cnn"),
        ("../elsewhere/log.jsonl", None),
    ],
)
def test_trainings_are_named_by_their_logs(tmp_path, path, name):
    assert tracking.training_name(tmp_path / "run", (tmp_path / "run" / path).resolve()) == name


def test_nothing_is_sent_by_default(tmp_path):
    with tracking.tracked(experiment.load("phantom"), tmp_path) as tracked:
        progress.append_jsonl(tmp_path / "log.jsonl", step=1, loss=1.0)
        tracked.on_stage("evaluate", tmp_path)
        assert progress.listeners == []
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl"}


def test_a_tracker_that_fails_does_not_stop_a_training(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", fail)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    monkeypatch.setattr(progress.log, "propagate", True)
    with tracking.tracked(make_experiment("tensorboard"), tmp_path):
        for step in (1, 2):
            progress.append_jsonl(tmp_path / "log.jsonl", step=step, loss=1.0)
    assert len({id(record) for record in caplog.records if "disk full" in record.message}) == 1
    assert len(progress.read_jsonl(tmp_path / "log.jsonl")) == 2


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install mlflow"), tracking.tracked(make_experiment("mlflow"), tmp_path):
        pass


def test_mlflow_and_wandb_get_the_same_lines(tmp_path, monkeypatch):
    calls = []

    class Client:
        def search_runs(self, groups, query):
            return [SimpleNamespace(info=SimpleNamespace(run_id="earlier"))]

        def create_run(self, group, run_name, tags):
            return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

        def __getattr__(self, name):
            return lambda *arguments, **options: calls.append((name, *arguments, *options.values()))

    class WandbRun:
        def log(self, values, step):
            calls.append(("wandb", step, values))

        def finish(self):
            calls.append(("finish",))

    mlflow = SimpleNamespace(MlflowClient=Client, set_experiment=lambda name: SimpleNamespace(experiment_id="1"))
    wandb = SimpleNamespace(init=lambda **options: WandbRun(), Image=str)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    log = tmp_path / "gan.partial" / "log.jsonl"
    log.parent.mkdir()
    with tracking.tracked(make_experiment("mlflow", "wandb"), tmp_path):
        progress.append_jsonl(log, step=3, loss=0.5)
    assert calls == [
        ("delete_run", "earlier"), ("log_metric", "gan", "loss", 0.5, 3), ("wandb", 3, {"loss": 0.5}),
        ("set_terminated", "gan"), ("finish",),
    ]  # fmt: skip
