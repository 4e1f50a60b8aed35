"""Profile a training step by operator: Table 1's network, plain and fused, and the GAN with one or two tapes."""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bcgan import machine

BATCH_SIZE = 128


def profile(precision: str, kind: str) -> dict[str, float]:
    """Return milliseconds a step by kind of operator, summed over all threads: parallel operators are both counted.

    Args:
        kind: `keras` or `fused`, Table 1's network; or `two_tapes` or `gan`.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    from bcgan.bench import subjects

    num_tapes = {"gan": 1, "two_tapes": 2}
    if kind in num_tapes:
        run = subjects.gan(precision, num_tapes[kind])
    else:
        run = _training(precision, is_fused=kind == "fused")
    run()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)):
            run()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    picoseconds: Counter[str] = Counter()
    for plane in space.planes:
        if plane.name.startswith("/host:CPU"):
            for event in (event for line in plane.lines for event in line.events):
                name = plane.event_metadata[event.metadata_id].name
                if ":" in name and "/" in name:  # <scope in the graph>:<operator>
                    operator = name.rsplit(":", 1)[1].removeprefix("_MklNative").removeprefix("_Mkl")
                    picoseconds[operator] += event.duration_ps
    return {operator: total / 1e9 / subjects.STEPS for operator, total in picoseconds.most_common()}


def _training(precision: str, is_fused: bool) -> Callable[[], None]:
    """Return a function that trains Table 1's network for STEPS steps, without the moving average of its weights."""
    import keras
    import tensorflow as tf

    from bcgan.bench.subjects import STEPS, configure, draw_patches
    from bcgan.models import fast
    from bcgan.models.classifier import build_classifier

    configure(precision)
    network = build_classifier("resnet_table1")
    model = fast.fuse_model(network) if is_fused else network
    optimizer = keras.optimizers.AdamW(1e-3)
    optimizer.build(network.trainable_variables)
    images, labels = map(tf.constant, draw_patches(BATCH_SIZE))

    @tf.function(autograph=False)
    def step():
        """Update the weights once."""
        with tf.GradientTape() as tape:
            logits = model(tf.cast(images, tf.float32) / 255, training=True)[:, 0]
            loss = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), logits)
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)

    def run() -> None:
        """Run STEPS steps."""
        for _ in range(STEPS):
            step()

    return run


if __name__ == "__main__":
    machine.prepare_environment()
    print(json.dumps(profile(sys.argv[1], sys.argv[2])))
