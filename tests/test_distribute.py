"""Several devices train like one: the same losses at the same batch, also after a kill; failures are one sentence."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from bcgan import artifacts, distribute, execution, machine, progress, runs
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment
from tests.conftest import EXPERIMENT
from tests.forked import Forked, run_bcgan
from tests.shared_training import log_losses

PIPELINES = Path(__file__).parents[1] / "pipelines"
STEPS = 12


def settings_of(port: int, index: int) -> dict[str, str]:
    workers = [f"localhost:{port}", f"localhost:{port + 1}"]
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder: Path, port: int, index: int) -> Forked:
    settings = (f"gan.steps={STEPS}", f"gan.sample_grid_interval={STEPS}", "gan.checkpoint_interval=4", "data.size=32")
    options = ("--until", "gan", *(f"--set={setting}" for setting in settings))
    return Forked(run_bcgan, "run", "tiny.yaml", *options, folder=folder, environment=settings_of(port, index))


def share(folder: Path, kind: str, environment: dict[str, str]) -> Forked:
    folder.mkdir()
    return Forked(log_losses, kind, folder=folder, environment=environment)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The logs of both trainings on one device."""
    folder = tmp_path_factory.mktemp("alone") / "one"
    code, stderr = share(folder, "one", {}).wait()
    assert code == 0, stderr
    return folder


@pytest.mark.parametrize("kind", ["devices", "workers"])
def test_two_devices_have_the_losses_of_one(tmp_path, alone, kind):
    """Both devices in one process, or each in its own process."""
    port = free_port()
    environments = [settings_of(port, index) for index in (0, 1)] if kind == "workers" else [{}]
    processes = [share(tmp_path / str(index), kind, environment) for index, environment in enumerate(environments)]
    codes, stderr = zip(*(process.wait() for process in processes), strict=True)
    assert not any(codes), stderr
    for log, names in (
        ("network.jsonl", ["loss", "validation_loss"]),
        ("log.jsonl", ["discriminator_loss", "generator_loss"]),
    ):
        expected = progress.read_jsonl(alone / log)
        for index in range(len(processes)):
            computed = progress.read_jsonl(tmp_path / str(index) / log)
            assert len(computed) == len(expected) > 1
            for name in names:
                np.testing.assert_allclose([row[name] for row in computed], [row[name] for row in expected], rtol=2e-3)


def test_two_workers_go_on_after_one_was_killed(tmp_path, idc_folder):
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT.format(folder=idc_folder), "utf-8")
    gan, port = tmp_path / "runs/tiny/gan", free_port()
    first, second = (start(tmp_path, port, index) for index in (0, 1))
    while not (tmp_path / "runs/tiny/gan.partial/checkpoint.npz").exists():
        assert first.poll() is None, first.stderr()
        time.sleep(0.1)
    second.send_signal(signal.SIGKILL)
    code, stderr = first.wait()
    assert code == 1
    assert "A worker was lost" in stderr
    assert not (gan / "manifest.json").exists()
    port = free_port()
    workers = [start(tmp_path, port, index) for index in (0, 1)]
    codes, stderr = zip(*(worker.wait() for worker in workers), strict=True)
    assert codes == (0, 0), stderr
    assert (gan / "manifest.json").exists()
    assert "resuming from step" in stderr[0]
    assert "takes part" in stderr[1]
    steps = [line["step"] for line in progress.read_jsonl(gan / "log.jsonl")]
    assert steps == sorted({*range(0, STEPS, 10), STEPS - 1})
    assert {path.name for path in gan.iterdir()} >= {"generator.keras", "discriminator.keras", "grids"}


@pytest.mark.parametrize(
    "text",
    ["no json", "[]", '{"cluster": {"worker": ["a:1"]}}', '{"cluster": {"worker": ["a:1"]}, "task": {"index": 1}}',
     '{"cluster": {"worker": ["a"]}, "task": {"index": 0}}',
     '{"cluster": {"worker": ["a:1"], "chief": ["b:1"]}, "task": {"type": "chief", "index": 0}}'],
)  # fmt: skip
def test_an_invalid_cluster_is_reported_in_one_sentence(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG is .* Write "):
        machine.cluster()


def test_a_missing_worker_is_named():
    port, absent_port = free_port(), free_port()
    with pytest.raises(WorkError, match=f"worker 1 at localhost:{absent_port} did not answer"):
        distribute.wait_for_workers([f"localhost:{port}", f"localhost:{absent_port}"], 0, timeout_s=0.5)
    with socket.create_server(("", port)), pytest.raises(WorkError, match=f"port {port}"):
        distribute.wait_for_workers([f"localhost:{port}", f"localhost:{absent_port}"], 0, timeout_s=0.5)


def test_the_distribution_is_chosen_with_a_reason(monkeypatch):
    tiny = {"name": "a", "data": {"name": "histology_phantom"}}
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert machine.choose_distribution(Experiment(**tiny), 0)[0] == "one"
    assert machine.choose_distribution(Experiment(**tiny), 4)[0] == "mirrored 4"
    assert machine.choose_distribution(Experiment(**tiny), 7)[0] == "mirrored 4"  # 64 patches a batch
    assert machine.choose_distribution(Experiment(**tiny, gan={"batch_size": 9}), 4)[0] == "one"
    few = Experiment(**tiny, gan={"batch_size": 8})  # a replica gets four patches, or more
    assert machine.choose_distribution(few, 4)[0] == "mirrored 2"
    with pytest.raises(InputError, match="distribute: on"):
        machine.choose_distribution(Experiment(**tiny, distribute="on"), 1)
    monkeypatch.setenv("TF_CONFIG", settings_of(2222, 1)["TF_CONFIG"])
    assert machine.choose_distribution(Experiment(**tiny), 0) == ("workers", "TF_CONFIG names 2")
    assert machine.choose_distribution(Experiment(**tiny, distribute="off"), 4)[0] == "one"


@pytest.mark.parametrize("batch", [64, 6])
def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch, batch):
    tiny = Experiment(name="a", data={"name": "histology_phantom"}, gan={"batch_size": batch})
    monkeypatch.setattr(distribute, "make_strategy", lambda kind: SimpleNamespace(num_replicas_in_sync=3))
    with pytest.raises(
        InputError, match=f"gan.batch_size: {batch} cannot be shared by 3 .* a multiple of 3, 12 or more"
    ):
        distribute.prepare(tiny)


def test_a_second_worker_stops_if_the_first_is_absent_or_ahead(tmp_path, monkeypatch, idc_folder):
    """The first worker does not run, or it runs and has passed this stage with other settings."""
    monkeypatch.setattr(execution, "FIRST_WORKER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(execution, "POLL_INTERVAL_S", 0.05)
    tiny, root = Experiment(name="a", data={"name": "idc", "dir": [idc_folder]}), tmp_path / "a"
    with pytest.raises(WorkError, match="the first worker does not run there"):
        execution.run_secondary_worker(tiny, root, "gan")
    with runs.lock(root):
        Timer(0.5, begin_another_build, (root / "gan",)).start()
        with pytest.raises(WorkError, match="preprocess: the first worker went on with other settings or data"):
            execution.run_secondary_worker(tiny, root, "gan")


def begin_another_build(folder):
    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifacts.build(folder, "another key", fail, {})


def test_slurm_names_every_node(tmp_path):
    for name, text in (("scontrol", "printf 'n1\\nn2\\n'"), ("srun", 'SLURM_PROCID=1 exec "${@:2}"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/bcgan").write_text('#!/bin/bash\necho "$TF_CONFIG"; echo "$@"\n')
    (tmp_path / ".venv/bin/bcgan").chmod(0o755)
    output = subprocess.run(
        ["bash", PIPELINES / "cluster/slurm.sh"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-2]", "EXPERIMENT": "idc"},
    ).stdout.splitlines()  # fmt: skip
    assert json.loads(output[0])["cluster"]["worker"] == ["n1:29500", "n2:29500"]
    assert json.loads(output[0])["task"]["index"] == 1
    assert output[1] == "run idc"


def test_kubernetes_starts_as_many_workers_as_it_names():
    service, job = yaml.safe_load_all((PIPELINES / "cluster/kubernetes.yaml").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(environment["WORKERS"])
    script = container["args"][0].replace("exec .venv/bin/bcgan", 'echo "$TF_CONFIG"; true')
    worker_environment = {**environment, "JOB_COMPLETION_INDEX": "1", "PATH": os.environ["PATH"]}
    command = ["bash", "-c", script]
    completed = subprocess.run(command, env=worker_environment, capture_output=True, text=True, check=True)
    workers = json.loads(completed.stdout)["cluster"]["worker"]
    name = service["metadata"]["name"]
    assert workers == [f"{job['metadata']['name']}-{number}.{name}:29500" for number in range(2)]
