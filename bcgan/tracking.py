"""Send training logs, sample grids, settings and metrics to the programs of the setting `track`, such as TensorBoard.

The training logs in the run's folder (JSON lines) are the source. When a training starts or resumes, what was sent of
it before is replaced by its log, so that a tracker never shows steps that were trained again.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from bcgan import progress, runs
from bcgan.errors import InputError
from bcgan.experiment import Experiment

FOLDER = "tensorboard"  # in the folder of the run
STEP_KEYS = ("step", "epoch")


class _TensorBoard:
    """A training in TensorBoard: a folder of event files below FOLDER."""

    def __init__(self, experiment: Experiment, root: Path, name: str):
        """Open the folder of the training `name`, without the files of earlier attempts."""
        import tensorflow as tf

        self._tf, folder = tf, root / FOLDER / name
        if folder.exists():  # files of trainings below `name` stay
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
        self._writer = tf.summary.create_file_writer(str(folder))

    def log(self, step: int, values: dict[str, float]) -> None:
        with self._writer.as_default(step):
            for key, value in values.items():
                self._tf.summary.scalar(key, value)
        self._writer.flush()

    def image(self, name: str, step: int, path: Path) -> None:
        with self._writer.as_default(step):
            self._tf.summary.image(name, self._tf.io.decode_png(path.read_bytes())[None])

    def text(self, name: str, text: str) -> None:
        with self._writer.as_default(0):
            self._tf.summary.text(name, text)

    def close(self) -> None:
        self._writer.close()


class _Mlflow:
    """A training in MLflow: a run of its own, in an experiment with the name of bcgan's."""

    def __init__(self, experiment: Experiment, root: Path, name: str):
        """Create the run of the training `name`, and delete those of earlier attempts, which have the same tag."""
        import mlflow

        self._client = mlflow.MlflowClient()
        group = mlflow.set_experiment(f"bcgan {experiment.name}").experiment_id
        tags = {"bcgan.training": f"{root.resolve()}/{name}"}
        query = f"tags.`bcgan.training` = '{tags['bcgan.training']}'"
        for earlier in self._client.search_runs([group], query):
            self._client.delete_run(earlier.info.run_id)
        self._id = self._client.create_run(group, run_name=name, tags=tags).info.run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._client.log_metric(self._id, key, value, step=step)

    def image(self, name: str, step: int, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), name)

    def text(self, name: str, text: str) -> None:
        self._client.log_text(self._id, text, f"{name}.md")

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _Wandb:
    """A training in Weights & Biases: a run of its own, in a group with the name of the experiment."""

    def __init__(self, experiment: Experiment, root: Path, name: str):
        """Open the run of the training `name`, or resume it: its id depends on the run's folder and the name alone."""
        import wandb

        self._wandb = wandb
        # A resumed run takes only steps after its last one: those that it has already are dropped.
        self._run = wandb.init(
            project="bcgan", group=experiment.name, name=f"{experiment.name}/{name}", dir=root, resume="allow",
            id=hashlib.sha256(f"{root.resolve()}/{name}".encode()).hexdigest()[:16], reinit="create_new",
        )  # fmt: skip

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def image(self, name: str, step: int, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def text(self, name: str, text: str) -> None:
        self._run.config.update({name: text}, allow_val_change=True)

    def close(self) -> None:
        self._run.finish()


# Classes with the same methods: log(step, {name: number}), image(name, step, PNG file), text(name, Markdown), close().
TRACKERS = {"tensorboard": _TensorBoard, "mlflow": _Mlflow, "wandb": _Wandb}


def check(experiment: Experiment) -> None:
    """Check that the packages of the trackers are installed.

    Raises:
        InputError: If one is missing.
    """
    for tracker in experiment.track:
        if find_spec(tracker) is None:  # each is a package of its name
            raise InputError(f"track: {tracker} needs the package {tracker}. Run: pip install {tracker}")


@contextlib.contextmanager
def tracked(experiment: Experiment, root: Path) -> Iterator["_Run"]:
    """Send what the stages log to the trackers of the setting `track`, such as TensorBoard, until the block ends.

    Args:
        root: Folder of the run.

    Yields:
        The trackers, whose `on_stage` is to be called after each stage.

    Raises:
        InputError: If a tracker's package is missing.
    """
    check(experiment)
    run = _Run(experiment, root)
    if experiment.track:
        progress.listeners.append(run.on_line)
    try:
        yield run
    finally:
        if experiment.track:
            progress.listeners.remove(run.on_line)
        run.close()


class _Run:
    """The trainings of a run, and the trackers that each is sent to."""

    def __init__(self, experiment: Experiment, root: Path):
        self._experiment, self._root, self._trackers = experiment, root, list(experiment.track)
        self._trainings: dict[str, dict[str, Any]] = {}  # by name, then by tracker
        self._sent_images: set[Path] = set()

    def on_line(self, log_path: Path, line: dict[str, Any]) -> None:
        """Send a line of a training log; `progress.append_jsonl` calls this.

        If it is the first line in this process, all earlier lines of the log are sent before it. New sample grids are
        sent too.
        """
        name = training_name(self._root, log_path)
        if name is None:
            return
        lines = [line] if name in self._trainings else progress.read_jsonl(log_path)
        for values in lines:
            self._send(name, "log", *split_line(values))
        for path in sorted((log_path.parent / "grids").glob("*.png")):
            if path not in self._sent_images:
                self._sent_images.add(path)
                self._send(name, "image", "grid", int(path.stem.rpartition("_")[2]), path)

    def on_stage(self, name: str, folder: Path) -> None:
        """Send the settings and the metrics when the stage `evaluate` has finished; ignore other stages."""
        if not self._trackers or name != "evaluate":
            return
        settings = yaml.safe_dump(self._experiment.model_dump(mode="json"), sort_keys=False)
        self._send(name, "text", "settings", f"```yaml\n{settings}```")
        for classifier, results in runs.read_json(folder / "metrics.json").items():
            for role, metrics in results["sets"].items():
                values = {f"{role}/{metric}": figures["value"] for metric, figures in metrics.items()}
                defined = {key: value for key, value in values.items() if isinstance(value, int | float)}
                self._send(f"{name}/{classifier}", "log", 0, defined)

    def close(self) -> None:
        """Close every training."""
        for name in list(self._trainings):
            self._send(name, "close")
        self._trainings.clear()

    def _send(self, name: str, method: str, *arguments: Any) -> None:
        """Call a method of a training for each tracker; one that fails gets no more data, and the run goes on."""
        trainings = self._trainings.setdefault(name, {})
        for tracker in list(self._trackers):
            try:
                if tracker not in trainings:
                    trainings[tracker] = TRACKERS[tracker](self._experiment, self._root, name)
                getattr(trainings[tracker], method)(*arguments)
            except Exception as error:  # whatever it is, hours of training are worth more
                progress.log.warning(
                    "track: %s failed (%s) and gets no more data of this run, which goes on; its own logs are complete",
                    tracker,
                    error,
                )
                self._trackers.remove(tracker)


def training_name(root: Path, log_path: Path) -> str | None:
    """Return the name of a training by its log: `gan`, `classify/cnn-seed0`; `None` if it lies outside the run."""
    if not log_path.is_relative_to(root):
        return None
    first, *inner_parts = log_path.relative_to(root).parts
    stage = inner_parts[0] if first == "cache" else first.removesuffix(".partial")
    if first == "cache":  # by the artifact's folder: logs of the learning curve's networks have the same file name
        return f"{stage}/{inner_parts[1].removesuffix('.partial').rpartition('-')[0]}"
    return stage if log_path.stem == "log" else f"{stage}/{log_path.stem}"


def split_line(line: dict[str, Any]) -> tuple[int, dict[str, float]]:
    """Return the step or epoch of a line of a training log, and its other numbers by name."""
    step = next(int(line[key]) for key in STEP_KEYS if key in line)
    return step, {
        key: float(value) for key, value in line.items() if key not in STEP_KEYS and isinstance(value, int | float)
    }
