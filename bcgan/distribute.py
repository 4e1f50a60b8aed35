"""Train on several devices or machines under tf.distribute; with one device, these functions change nothing.

Everything random is a function of (seed, step), so every replica draws the same global batch. Each takes its own rows;
gradients are summed, and batch normalization uses the statistics of the whole batch. The losses are therefore those of
one device at the same batch size. A Keras 3 optimizer sums the gradients itself, so only the loss has to be divided by
the number of replicas.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import keras
import tensorflow as tf

from bcgan import machine
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment

WORKER_TIMEOUT_S = 300.0  # that a worker waits for the others


@cache
def make_strategy(kind: str) -> tf.distribute.Strategy:
    """Make the strategy of a kind from `machine.choose_distribution`. Workers wait here for each other.

    Call it before TensorFlow computes anything.

    Raises:
        WorkError: If a worker cannot be reached.
    """
    name, _, count = kind.partition(" ")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(int(count))])
    if kind == "workers":
        wait_for_workers(**machine.cluster())
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def prepare(experiment: Experiment) -> tf.distribute.Strategy:
    """Return the experiment's strategy.

    Raises:
        InputError: If replicas cannot share a batch evenly.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    strategy = make_strategy(machine.choose_distribution(experiment, gpus)[0])
    count = strategy.num_replicas_in_sync
    for name in ("gan", "classify"):
        batch = getattr(experiment, name).batch_size
        if not machine.can_share_batch(batch, count):
            raise InputError(
                f"{name}.batch_size: {batch} cannot be shared by {count} replicas. Choose a multiple of {count}, "
                f"{machine.MIN_PATCHES_PER_REPLICA * count} or more."
            )
    return strategy


@contextmanager
def scope(experiment: Experiment) -> Iterator[None]:
    """Yield within the scope of the experiment's strategy; networks are built and trained in it.

    Raises:
        WorkError: If a worker was lost.
    """
    try:
        with prepare(experiment).scope():
            yield
    except tf.errors.OpError as error:
        if "ollective" not in error.message:  # "Collective" or "collective": the operation between workers
            raise
        reason = error.message.splitlines()[0].strip().rstrip(".")
        raise WorkError(
            f"A worker was lost: {reason}. Start the same command on every worker again: it resumes from the last "
            "checkpoint."
        ) from error


def wait_for_workers(workers: list[str], index: int, timeout_s: float = WORKER_TIMEOUT_S) -> None:
    """Wait until every other worker answers at its address. TensorFlow would wait for hours without a message.

    Args:
        workers: Addresses `host:port`.
        index: Of this worker, which listens on its own port meanwhile.

    Raises:
        WorkError: If a worker does not answer, or this one's port is in use.
    """
    deadline, port = time.monotonic() + timeout_s, _split_address(workers[index])[1]
    try:
        server = socket.create_server(("", port), reuse_port=True)
    except OSError as error:
        raise WorkError(
            f"TF_CONFIG: port {port} of this worker cannot be used ({error.strerror}). Choose another."
        ) from error
    with server:
        for worker, address in enumerate(workers):
            while worker != index:
                try:
                    socket.create_connection(_split_address(address), timeout=2).close()
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise WorkError(
                            f"TF_CONFIG: worker {worker} at {address} did not answer in {timeout_s:.0f} seconds "
                            f"({error}). Start the same command there, and see that it can be reached from here."
                        ) from error
                    time.sleep(0.2)


def _split_address(address: str) -> tuple[str, int]:
    """Return the host and port of `host:port`."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def replicas() -> int:
    """Return the number of replicas that share a batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replica_rows(values: tf.Tensor) -> tf.Tensor:
    """Return this replica's rows of a global batch: every n-th, so that a batch sorted by class is divided evenly."""
    count = replicas()
    if count == 1:
        return values
    return values[tf.distribute.get_replica_context().replica_id_in_sync_group :: count]


def run_on_replicas(update: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `update` so that every replica runs it; the numbers that it returns are averaged over the replicas."""
    if replicas() == 1:
        return update
    strategy = tf.distribute.get_strategy()

    def update_replica(*arguments):
        """Run `update` on one replica, and average its results with the others'."""
        results = update(*arguments)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, results)

    def update_all(*arguments):
        """Run `update` on all replicas, and return the averages once."""
        results = strategy.run(update_replica, arguments)
        return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], results)

    return update_all


def synchronize_batch_norm(network: keras.Model) -> None:
    """Make batch normalization use the statistics of all replicas, in nested networks too. Call it before training."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            synchronize_batch_norm(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = replicas() > 1
