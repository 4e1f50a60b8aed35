"""What is timed: each function prepares one subject and gives a function that does it once and counts patches.

A subject has a process of its own, as precision and threads are a process's. Networks start from fresh weights: how
long a step takes does not depend on them.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bcgan import machine
from bcgan.classifiers import CLASSIFIERS
from bcgan.data.histology_phantom.tissue import draw as patches
from bcgan.experiment import Experiment
from bcgan.settings import Classifier, Classify, Gan

Subject = Callable[[], float]
NETWORK = "resnet_table1"
STEPS = 6  # of training, in one repeat
BATCH = 128
SCORED = 1024  # patches, in one repeat of inference
PREPARED = 2_000  # PNG files
SLIDE = 800  # side of the large image, pixels


def training(
    precision: str, network: str = NETWORK, batch: int = BATCH, xla: bool = False, steps: int = STEPS
) -> Subject:
    """The classifier's own training step, its average of weights included, without augmentation."""
    start(precision)
    import tensorflow as tf

    from bcgan.classify import train

    settings, model = Classify(batch_size=batch), _classifier(network)
    optimizer = train.make_optimizer(model, Classifier(), settings, 1000)
    recipe = train.Recipe(settings, Classifier(), xla=xla, augment=False)
    step = train.make_step(model, _classifier(network), optimizer, recipe, (1.0, 1.0))
    images, labels = map(tf.constant, patches(batch))

    def run() -> int:
        for number in range(steps):
            value = step(tf.constant(number, tf.int64), images, labels)[0]
        float(value)
        return steps * batch

    return run


def keras_fit(network: str = NETWORK) -> Subject:
    """What one would write first: compile and fit, with every default."""
    import keras

    model = _classifier(network)
    model.compile(keras.optimizers.AdamW(1e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    images, labels = patches(STEPS * BATCH)
    images = images.astype(np.float32) / 255

    def run() -> int:
        model.fit(images, labels, batch_size=BATCH, verbose=0)
        return len(labels)

    return run


def inference(precision: str, network: str = NETWORK, scored: int = SCORED) -> Subject:
    """The scorer that evaluation and prediction use."""
    start(precision)
    from bcgan.classify.scoring import scorer

    return _counted(scorer(_classifier(network)), patches(scored)[0])


def keras_predict(network: str = NETWORK, scored: int = SCORED) -> Subject:
    """`Model.predict` with every default."""
    model = _classifier(network)
    return _counted(lambda images: model.predict(images, verbose=0), patches(scored)[0].astype(np.float32) / 255)


def litert(quantised: bool) -> Subject:
    """The network as `bcgan export --format` writes it for LiteRT, and LiteRT's own interpreter."""
    start("float32")
    from bcgan.predict import formats

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        formats.write_litert(_classifier(NETWORK), path, patches(128)[0] if quantised else None)
        return _counted(formats.read_litert(path), patches(SCORED)[0])


def openvino(precision: str) -> Subject:
    """The file that `bcgan export` writes for LiteRT, and OpenVINO; precision: "f32" or "bf16"."""
    start("float32")
    from bcgan.predict import formats

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        formats.write_litert(_classifier(NETWORK), path)
        return _counted(formats.read_openvino(path, precision), patches(SCORED)[0])


def onnx() -> Subject:
    """The network as `bcgan export --format` writes it for ONNX, and ONNX Runtime."""
    start("float32")
    from bcgan.predict import formats

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        formats.write_onnx(_classifier(NETWORK), path)
        return _counted(formats.read_onnx(path), patches(SCORED)[0])


def gan(
    precision: str, tapes: int, batch: int = 32, xla: bool = False, steps: int = STEPS, projected_weight: float = 0.0
) -> Subject:
    """Return a GAN training step, by default without the projected discriminator: bcgan's, or a tutorial's.

    The tutorial's uses two tapes: synthetic patches are generated once for each network, real and synthetic ones are
    scored separately, both losses propagate through everything, and gradients are taken one after the other.
    """
    start(precision)
    import tensorflow as tf

    from bcgan.gan import train

    settings = Gan(batch_size=batch, projected_discriminator_weight=projected_weight)
    gan_state = train.build_gan_state(settings)
    step = train.make_step(gan_state, settings, 0, xla) if tapes == 1 else _two_tapes(gan_state, settings, xla)
    images, labels = map(tf.constant, patches(batch))

    def run() -> int:
        for number in range(steps):
            values = step(tf.constant(number, tf.int64), images, labels)
        float(values["generator_loss"])
        return steps * batch

    return run


def _two_tapes(gan_state, settings: Gan, xla: bool):
    import tensorflow as tf

    from bcgan.data import batches
    from bcgan.gan.augment import augment
    from bcgan.gan.losses import discriminator_loss, generator_loss
    from bcgan.models import weights

    def made(seed, classes):
        count = tf.shape(classes)[0]
        noise = tf.random.stateless_normal((count, settings.latent_dim), seed)
        grain = tf.random.stateless_normal((count, 50, 50, 1), seed + 1)
        return gan_state.generator([noise, classes, grain], training=True)

    def updated(name, tape, loss):
        variables = getattr(gan_state, name).trainable_variables
        gan_state.optimizers[name].apply(tape.gradient(loss, variables), variables)

    @tf.function(jit_compile=xla)
    def step(number, images, classes):
        seeds = [tf.stack([tf.constant(0, tf.int64), 8 * number + place]) for place in range(5)]
        real = batches.dihedral(batches.scale(images), seeds[0])
        with tf.GradientTape() as tape:
            augmented = augment(real, seeds[1]), augment(made(seeds[2], classes), seeds[3])
            logits = [gan_state.discriminator([side, classes], training=True) for side in augmented]
            real_fake_loss = discriminator_loss(*logits)
        updated("discriminator", tape, real_fake_loss)
        with tf.GradientTape() as tape:
            augmented = augment(made(seeds[4], classes), seeds[3])
            make_loss = generator_loss(gan_state.discriminator([augmented, classes], training=True), settings.loss)
        updated("generator", tape, make_loss)
        weights.move_average(gan_state.average.variables, gan_state.generator.variables, 0.999)
        return {"generator_loss": make_loss}

    return step


def feeding(augmented: bool, batch: int = 64) -> Subject:
    """The input pipeline with no network behind it: shuffling, reading, batches; and the classifier's augmentation."""
    import tensorflow as tf

    from bcgan.data import batches

    images, labels = patches(4096)
    sampler, steps = batches.shuffled(np.arange(len(images)), batch, 0), range(128)

    @tf.function
    def augment(step, images):
        seed = tf.stack([tf.constant(0, tf.int64), step])
        images = batches.dihedral(batches.scale(images), seed)
        return batches.color_jitter(batches.stain_jitter(images, seed, 0.15), seed, 0.05)

    def run() -> int:
        for step, batch_images, _ in batches.stream(images, labels, sampler, steps):
            if augmented:
                batch_images = augment(step, batch_images)
        batch_images.numpy()
        return len(steps) * batch

    return run


def waiting(precision: str, batch: int = BATCH, xla: bool = False) -> Subject:
    """A training of Table 1's network as it runs, in the middle of an epoch: counts hundredths of the seconds in which
    the step waited for its batch, so that a second of them is the percentage."""
    start(precision)
    from bcgan.classify import train
    from bcgan.data import batches

    settings, model = Classify(batch_size=batch), _classifier(NETWORK)
    optimizer = train.make_optimizer(model, Classifier(), settings, 1000)
    step = train.make_step(
        model, _classifier(NETWORK), optimizer, train.Recipe(settings, Classifier(), xla=xla), (1.0, 1.0)
    )
    images, labels = patches(4096)
    feed = iter(batches.stream(images, labels, batches.shuffled(np.arange(4096), batch, 0), range(10**6)))

    def run() -> float:
        waited = 0.0
        for _ in range(4 * STEPS):  # more than are read ahead
            began = time.perf_counter()
            fed_batch = next(feed)
            waited += time.perf_counter() - began
            float(step(*fed_batch)[0])
        return 100 * waited

    return run


def preprocess(times: int = 1) -> Subject:
    """The stage `preprocess` on a folder of PNG files: hashing, decoding, auditing, splitting, writing."""
    import cv2

    from bcgan.preprocess import store

    temporary = tempfile.TemporaryDirectory(prefix="bcgan-bench-")  # until the process ends
    folder = Path(temporary.name)
    images, labels = patches(PREPARED * times)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / f"png/{i % 10}_idx5_x{i}_y1_class{label}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "store").mkdir()
    experiment = Experiment(name="bench", data={"name": "idc", "dir": (folder / "png",)})
    count = len(images)
    del images, image  # the stage's own memory is what counts

    def run() -> int:
        store.build(experiment, Path(temporary.name) / "store")
        return count

    return run


def slide() -> Subject:
    """`bcgan predict` on one large image, by the shipped model: tiling, scoring, neighbours, verdicts."""
    start("float32")
    import io

    import cv2

    from bcgan.predict.model import load
    from bcgan.predict.predict import predict

    model, side = load(), SLIDE // 50
    tiles = patches(side * side)[0].reshape(side, side, 50, 50, 3)
    folder = tempfile.TemporaryDirectory(prefix="bcgan-bench-")  # until the process ends
    path = Path(folder.name) / "slide.png"
    cv2.imwrite(str(path), tiles.transpose(0, 2, 1, 3, 4).reshape(SLIDE, SLIDE, 3)[..., ::-1])
    return lambda: sum(predict(model, [Path(folder.name) / path.name], io.StringIO(), False).values())


def start_up(predicts: bool = False) -> Subject:
    """`bcgan --help` from nothing, or `bcgan predict` of one patch; the memory is the command's."""
    import cv2

    from bcgan.bench.worker import peak_mebibytes

    folder = tempfile.TemporaryDirectory(prefix="bcgan-bench-")  # until the process ends
    cv2.imwrite(str(Path(folder.name) / "patch.png"), patches(1)[0][0])
    arguments = ("predict", "patch.png") if predicts else ("--help",)

    def run() -> int:
        run.peak_mebibytes = None
        command = [sys.executable, "-m", "bcgan", *arguments]
        with subprocess.Popen(command, cwd=folder.name, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                # What is left of a process that has ended does not say it any more.
                run.peak_mebibytes = peak_mebibytes(process.pid) or run.peak_mebibytes
                time.sleep(0.005)
        if process.returncode not in (0, 3):  # 3: the patch is like none that the model was trained on
            raise RuntimeError(f"bcgan {arguments[0]} ended with {process.returncode}")
        return 1

    return run


def start(precision: str) -> None:
    machine.start(trial(precision))


def trial(precision: str = "auto") -> Experiment:
    return Experiment(name="bench", data={"name": "histology_phantom"}, precision=precision)


def _classifier(name: str):
    from bcgan.models.classifier import classifier
    from bcgan.models.discriminator import discriminator

    return classifier(name, discriminator=discriminator() if CLASSIFIERS[name].uses_discriminator else None)


def _counted(score: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> Subject:
    return lambda: len(score(images))


def limit(precision: str, side: int = 1536, times: int = 8) -> Subject:
    """Matrix products alone: counts millions of multiplications and additions, not patches."""
    import tensorflow as tf

    left, right = (tf.cast(tf.random.normal((side, side)), precision) for _ in range(2))

    @tf.function
    def product(x, y):
        return tf.reduce_sum(tf.cast(x @ y, tf.float32))

    def run() -> int:
        for _ in range(times):
            value = product(left, right)
        float(value)
        return times * 2 * side**3 // 10**6

    return run
