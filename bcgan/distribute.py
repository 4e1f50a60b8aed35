"""One training on several devices or machines, under tf.distribute; with one device nothing here does anything.

Every replica draws the same global batch, as everything random is a function of (seed, step), and takes its own rows of
it; gradients are summed, batch normalisation sees the whole batch. So the losses are those of one device at the same
batch. A Keras 3 optimizer sums the gradients by itself: a loss is divided by the replicas, and nothing else.
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

PATIENCE = 300.0  # seconds that a worker waits for the others


@cache
def strategy(kind: str) -> tf.distribute.Strategy:
    """The strategy of a kind that `machine.choose_distribution` named. Workers wait here for each other, and this has
    to come before anything that TensorFlow computes.

    Raises:
        WorkError: a worker cannot be reached.
    """
    name, _, count = kind.partition(" ")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([f"GPU:{number}" for number in range(int(count))])
    if kind == "workers":
        reach(**machine.cluster())
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def prepare(experiment: Experiment) -> tf.distribute.Strategy:
    """The experiment's strategy.

    Raises:
        InputError: a batch that cannot be shared out evenly.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    chosen = strategy(machine.choose_distribution(experiment, gpus)[0])
    count = chosen.num_replicas_in_sync
    for name in ("gan", "classify"):
        batch = getattr(experiment, name).batch_size
        if not machine.shares(batch, count):
            raise InputError(
                f"{name}.batch_size: {batch} cannot be shared by {count} replicas. Choose a multiple of {count}, "
                f"{machine.LEAST * count} or more."
            )
    return chosen


@contextmanager
def scope(experiment: Experiment) -> Iterator[None]:
    """What a training that is shared is built and run in: the experiment's devices together, or the one there is.

    Raises:
        WorkError: a worker was lost.
    """
    try:
        with prepare(experiment).scope():
            yield
    except tf.errors.OpError as error:
        if "ollective" not in error.message:
            raise
        reason = error.message.splitlines()[0].strip().rstrip(".")
        raise WorkError(
            f"A worker was lost: {reason}. Start the same command on every worker again: it resumes from the last "
            "checkpoint."
        ) from error


def reach(workers: list[str], index: int, seconds: float = PATIENCE) -> None:
    """Wait until every other worker answers at its address; TensorFlow itself would wait for hours and say nothing.

    Raises:
        WorkError: one of them does not, or this one's own port is taken.
    """
    end, port = time.monotonic() + seconds, _place(workers[index])[1]
    try:
        listening = socket.create_server(("", port), reuse_port=True)
    except OSError as error:
        raise WorkError(
            f"TF_CONFIG: port {port} of this worker cannot be used ({error.strerror}). Choose another."
        ) from error
    with listening:
        for number, address in enumerate(workers):
            while number != index:
                try:
                    socket.create_connection(_place(address), timeout=2).close()
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        raise WorkError(
                            f"TF_CONFIG: worker {number} at {address} did not answer in {seconds:.0f} seconds "
                            f"({error}). Start the same command there, and see that it can be reached from here."
                        ) from error
                    time.sleep(0.2)


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def replicas() -> int:
    """How many replicas share a batch here."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def own(values: tf.Tensor) -> tf.Tensor:
    """This replica's rows of a global batch: every n-th, so that a batch ordered by class is dealt fairly."""
    count = replicas()
    if count == 1:
        return values
    return values[tf.distribute.get_replica_context().replica_id_in_sync_group :: count]


def everywhere(update: Callable[..., Any]) -> Callable[..., Any]:
    """A function that lets every replica run `update` and gives the means of the numbers that come back."""
    if replicas() == 1:
        return update
    strategy = tf.distribute.get_strategy()

    def replica(*arguments):
        update_result = update(*arguments)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, update_result)

    def run(*arguments):
        results = strategy.run(replica, arguments)
        return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], results)

    return run


def synchronise(network: keras.Model) -> None:
    """Before a training: batch normalisation, in networks within this one too, is to see what all replicas see."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            synchronise(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = replicas() > 1
