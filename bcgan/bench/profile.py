"""Measure where a training step's time goes, by operator: Table 1's network as Keras computes it and as its fused model
does, and the GAN with two tapes and as ours."""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bcgan import machine

BATCH = 128


def profile(precision: str, kind: str) -> dict[str, float]:
    """Milliseconds a step by kind of operator, summed over all threads; those that run at once count twice.

    Args:
        kind: string. keras or quick: Table 1's network; two_tapes or gan.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    from bcgan.bench import subjects

    gans = {"gan": 1, "two_tapes": 2}
    run = subjects.gan(precision, gans[kind]) if kind in gans else _training(precision, kind == "quick")
    run()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)):
            run()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    seconds: Counter[str] = Counter()
    for plane in space.planes:
        if plane.name.startswith("/host:CPU"):
            for event in (event for line in plane.lines for event in line.events):
                name = plane.event_metadata[event.metadata_id].name
                if ":" in name and "/" in name:  # <place in the graph>:<operator>
                    seconds[name.rsplit(":", 1)[1].removeprefix("_MklNative").removeprefix("_Mkl")] += event.duration_ps
    return {name: value / 1e9 / subjects.STEPS for name, value in seconds.most_common()}


def _training(precision: str, is_fused: bool) -> Callable[[], None]:
    """A few steps of Table 1's network, the update of its weights included and their average not."""
    import keras
    import tensorflow as tf

    from bcgan.bench.subjects import STEPS, patches, start
    from bcgan.models import fast
    from bcgan.models.classifier import classifier

    start(precision)
    network = classifier("resnet_table1")
    model = fast.fuse_model(network) if is_fused else network
    optimizer = keras.optimizers.AdamW(1e-3)
    optimizer.build(network.trainable_variables)
    images, labels = map(tf.constant, patches(BATCH))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = model(tf.cast(images, tf.float32) / 255, training=True)[:, 0]
            loss = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), logits)
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)

    def run() -> None:
        for _ in range(STEPS):
            step()

    return run


if __name__ == "__main__":
    machine.prepare_environment()
    print(json.dumps(profile(sys.argv[1], sys.argv[2])))
