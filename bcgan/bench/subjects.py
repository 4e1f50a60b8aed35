"""The subjects of the benchmark: each function prepares one, and returns a function that runs it once.

That function returns the number of patches, or of other units. Every subject has its own process, because precision and
threads are settings of a process. Networks have random weights: the time of a step does not depend on them.
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
from bcgan.data.histology_phantom.tissue import example_patches as draw_patches
from bcgan.experiment import Experiment
from bcgan.settings import Classifier, Classify, Gan

Subject = Callable[[], float]
NETWORK = "resnet_table1"
STEPS = 6  # of training, in one repeat
BATCH_SIZE = 128
NUM_SCORED = 1024  # patches, in one repeat of inference
NUM_FILES = 2_000  # PNG files of the subject `preprocess`
LARGE_IMAGE_PX = 800
# Sides of the patches, pixels, that networks besides Table 1's are timed on: the paper's crops, EfficientNet's input.
LARGER_INPUTS = {"resnet34": 224, "resnet50": 224, "efficientnet_lite0": 100}


def training(
    precision: str,
    network: str = NETWORK,
    batch: int = BATCH_SIZE,
    xla: bool = False,
    steps: int = STEPS,
    size: int = 50,
) -> Subject:
    """Make bcgan's training step of a classifier, with the moving average of weights, without augmentation."""
    configure(precision)
    import tensorflow as tf

    from bcgan.classify import train

    settings, model = Classify(batch_size=batch), _classifier(network, size)
    optimizer = train.make_optimizer(model, Classifier(), settings, 1000)
    recipe = train.Recipe(settings, Classifier(), xla=xla, augment=False)
    step = train.make_step(model, _classifier(network, size), optimizer, recipe, (1.0, 1.0))
    images, labels = map(tf.constant, draw_patches(batch, size))

    def run() -> int:
        for index in range(steps):
            value = step(tf.constant(index, tf.int64), images, labels)[0]
        float(value)
        return steps * batch

    return run


def keras_fit(network: str = NETWORK) -> Subject:
    """Make `Model.compile` and `Model.fit` with default settings."""
    import keras

    model = _classifier(network)
    model.compile(keras.optimizers.AdamW(1e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    images, labels = draw_patches(STEPS * BATCH_SIZE)
    images = images.astype(np.float32) / 255

    def run() -> int:
        model.fit(images, labels, batch_size=BATCH_SIZE, verbose=0)
        return len(labels)

    return run


def inference(precision: str, network: str = NETWORK, scored: int = NUM_SCORED, size: int = 50) -> Subject:
    """Make the scoring function that evaluation and prediction use."""
    configure(precision)
    from bcgan.classify.scoring import make_predict_fn

    return _make_scoring_subject(make_predict_fn(_classifier(network, size)), draw_patches(scored, size)[0])


def keras_predict(network: str = NETWORK, scored: int = NUM_SCORED) -> Subject:
    """Make `Model.predict` with default settings."""
    model = _classifier(network)
    return _make_scoring_subject(
        lambda images: model.predict(images, verbose=0), draw_patches(scored)[0].astype(np.float32) / 255
    )


def litert(quantised: bool, network: str = NETWORK, scored: int = NUM_SCORED, size: int = 50) -> Subject:
    """Make LiteRT's interpreter on the file that `bcgan export --format` writes."""
    configure("float32")
    from bcgan.predict import formats

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        formats.write_litert(_classifier(network, size), path, draw_patches(128, size)[0] if quantised else None)
        return _make_scoring_subject(formats.read_litert(path), draw_patches(scored, size)[0])


def openvino(precision: str, network: str = NETWORK, scored: int = NUM_SCORED, size: int = 50) -> Subject:
    """Make OpenVINO on the file that `bcgan export` writes for LiteRT; `precision` is "f32" or "bf16"."""
    configure("float32")
    from bcgan.predict import formats

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        formats.write_litert(_classifier(network, size), path)
        return _make_scoring_subject(formats.read_openvino(path, precision), draw_patches(scored, size)[0])


def onnx() -> Subject:
    """Make ONNX Runtime on the file that `bcgan export --format` writes."""
    configure("float32")
    from bcgan.predict import formats

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        formats.write_onnx(_classifier(NETWORK), path)
        return _make_scoring_subject(formats.read_onnx(path), draw_patches(NUM_SCORED)[0])


def gan(
    precision: str,
    tapes: int,
    batch: int = 32,
    xla: bool = False,
    steps: int = STEPS,
    projected_weight: float = 0.0,
    size: int = 50,
) -> Subject:
    """Make a GAN training step on patches of `size` pixels: bcgan's, or a tutorial's.

    By default it is without the projected discriminator.

    The tutorial's uses two tapes: synthetic patches are generated once for each network, real and synthetic ones are
    scored separately, both losses propagate through everything, and gradients are taken one after the other.
    """
    configure(precision)
    import tensorflow as tf

    from bcgan.gan import train

    settings = Gan(batch_size=batch, projected_discriminator_weight=projected_weight)
    gan_state = train.build_gan_state(settings, size)
    step = train.make_step(gan_state, settings, 0, xla) if tapes == 1 else _make_two_tape_step(gan_state, settings, xla)
    images, labels = map(tf.constant, draw_patches(batch, size))

    def run() -> int:
        for index in range(steps):
            values = step(tf.constant(index, tf.int64), images, labels)
        float(values["generator_loss"])
        return steps * batch

    return run


def _make_two_tape_step(gan_state, settings: Gan, xla: bool):
    """Return a GAN training step with a tape for each network."""
    import tensorflow as tf

    from bcgan.data import batches
    from bcgan.gan.augment import augment
    from bcgan.gan.losses import discriminator_loss, generator_loss
    from bcgan.models import weights

    def generate(seed, classes):
        """Return synthetic patches of the classes."""
        count = tf.shape(classes)[0]
        noise = tf.random.stateless_normal((count, settings.latent_dim), seed)
        pixel_noise_shape = gan_state.generator.inputs[2].shape[1:]
        pixel_noise = tf.random.stateless_normal((count, *pixel_noise_shape), seed + 1)
        return gan_state.generator([noise, classes, pixel_noise], training=True)

    def update(name, tape, loss):
        """Update the weights of a network."""
        variables = getattr(gan_state, name).trainable_variables
        gan_state.optimizers[name].apply(tape.gradient(loss, variables), variables)

    @tf.function(jit_compile=xla, autograph=False)
    def step(index, images, classes):
        """Update the discriminator, then the generator."""
        seeds = [tf.stack([tf.constant(0, tf.int64), 8 * index + offset]) for offset in range(5)]
        real = batches.random_dihedral(batches.to_float(images), seeds[0])
        with tf.GradientTape() as tape:
            augmented = augment(real, seeds[1]), augment(generate(seeds[2], classes), seeds[3])
            logits = [gan_state.discriminator([batch, classes], training=True) for batch in augmented]
            real_fake_loss = discriminator_loss(*logits)
        update("discriminator", tape, real_fake_loss)
        with tf.GradientTape() as tape:
            augmented = augment(generate(seeds[4], classes), seeds[3])
            fake_logits = gan_state.discriminator([augmented, classes], training=True)
            fake_loss = generator_loss(fake_logits, settings.loss)
        update("generator", tape, fake_loss)
        weights.update_ema(gan_state.average.variables, gan_state.generator.variables, 0.999)
        return {"generator_loss": fake_loss}

    return step


def input_pipeline(augmented: bool, batch: int = 64) -> Subject:
    """Make the input pipeline without a network: shuffling, reading and batches, and the classifier's augmentation."""
    import tensorflow as tf

    from bcgan.data import batches

    images, labels = draw_patches(4096)
    sampler, steps = batches.epoch_sampler(np.arange(len(images)), batch, 0), range(128)

    @tf.function(autograph=False)
    def augment(step, images):
        seed = tf.stack([tf.constant(0, tf.int64), step])
        images = batches.random_dihedral(batches.to_float(images), seed)
        return batches.color_jitter(batches.stain_jitter(images, seed, 0.15), seed, 0.05)

    def run() -> int:
        for step, batch_images, _ in batches.make_dataset(images, labels, sampler, steps):
            if augmented:
                batch_images = augment(step, batch_images)
        batch_images.numpy()
        return len(steps) * batch

    return run


def input_wait(precision: str, batch: int = BATCH_SIZE, xla: bool = False, patches: int = 4096) -> Subject:
    """Make a training of Table 1's network, in the middle of an epoch, that measures the waiting time for batches.

    It returns hundredths of seconds, so that the rate is the percentage of the time.
    """
    configure(precision)
    from bcgan.classify import train
    from bcgan.data import batches

    settings, model = Classify(batch_size=batch), _classifier(NETWORK)
    optimizer = train.make_optimizer(model, Classifier(), settings, 1000)
    step = train.make_step(
        model, _classifier(NETWORK), optimizer, train.Recipe(settings, Classifier(), xla=xla), (1.0, 1.0)
    )
    images, labels = draw_patches(patches)
    iterator = iter(
        batches.make_dataset(images, labels, batches.epoch_sampler(np.arange(patches), batch, 0), range(10**6))
    )

    def run() -> float:
        seconds_waited = 0.0
        for _ in range(4 * STEPS):  # more than are prefetched
            start_time = time.perf_counter()
            next_batch = next(iterator)
            seconds_waited += time.perf_counter() - start_time
            float(step(*next_batch)[0])
        return 100 * seconds_waited

    return run


def preprocess(times: int = 1) -> Subject:
    """Make the stage `preprocess` on a folder of PNG files: hashing, decoding, auditing, splitting, writing."""
    import cv2

    from bcgan.preprocess import store

    temporary = tempfile.TemporaryDirectory(prefix="bcgan-bench-")  # until the process ends
    folder = Path(temporary.name)
    images, labels = draw_patches(NUM_FILES * times)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / f"png/{index % 10}_idx5_x{index}_y1_class{label}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "store").mkdir()
    experiment = Experiment(name="bench", data={"name": "idc", "dir": (folder / "png",)})
    count = len(images)
    del images, image  # the peak memory must be the stage's alone

    def run() -> int:
        store.build(experiment, Path(temporary.name) / "store")
        return count

    return run


def large_image() -> Subject:
    """Make `bcgan predict` on one large image, with the bundled model: tiling, scoring, context, verdicts."""
    configure("float32")
    import io

    import cv2

    from bcgan.predict.model import load
    from bcgan.predict.predict import predict

    model, side = load(), LARGE_IMAGE_PX // 50
    tiles = draw_patches(side * side)[0].reshape(side, side, 50, 50, 3)
    folder = tempfile.TemporaryDirectory(prefix="bcgan-bench-")  # until the process ends
    path = Path(folder.name) / "slide.png"
    cv2.imwrite(str(path), tiles.transpose(0, 2, 1, 3, 4).reshape(LARGE_IMAGE_PX, LARGE_IMAGE_PX, 3)[..., ::-1])
    return lambda: sum(predict(model, [Path(folder.name) / path.name], io.StringIO(), False).values())


def start_up(predicts: bool = False) -> Subject:
    """Make a process that runs `bcgan --help`, or `bcgan predict` of one patch; the memory is the command's."""
    import cv2

    from bcgan.bench.worker import peak_mebibytes

    folder = tempfile.TemporaryDirectory(prefix="bcgan-bench-")  # until the process ends
    cv2.imwrite(str(Path(folder.name) / "patch.png"), draw_patches(1)[0][0])
    arguments = ("predict", "patch.png") if predicts else ("--help",)

    def run() -> int:
        run.peak_mebibytes = None
        command = [sys.executable, "-m", "bcgan", *arguments]
        with subprocess.Popen(command, cwd=folder.name, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                # Unknown once the process has ended: keep the last value.
                run.peak_mebibytes = peak_mebibytes(process.pid) or run.peak_mebibytes
                time.sleep(0.005)
        if process.returncode not in (0, 3):  # 3: the patch is out of distribution
            raise RuntimeError(f"bcgan {arguments[0]} ended with {process.returncode}")
        return 1

    return run


def configure(precision: str) -> None:
    """Set the precision and seeds of this process."""
    machine.configure(bench_experiment(precision))


def bench_experiment(precision: str = "auto") -> Experiment:
    """Return the experiment whose precision and XLA settings the benchmark uses."""
    return Experiment(name="bench", data={"name": "histology_phantom"}, precision=precision)


def _classifier(name: str, size: int = 50):
    """Build a classifier with random weights."""
    from bcgan.models.classifier import build_classifier
    from bcgan.models.discriminator import discriminator

    uses_discriminator = CLASSIFIERS[name].uses_discriminator
    return build_classifier(name, size, discriminator(size=size) if uses_discriminator else None)


def _make_scoring_subject(score: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> Subject:
    """Return a subject that scores the images."""
    return lambda: len(score(images))


def peak_matmul(precision: str, side: int = 1536, times: int = 8) -> Subject:
    """Make matrix products, which limit a network's speed; it returns millions of multiplications and additions."""
    import tensorflow as tf

    left, right = (tf.cast(tf.random.normal((side, side)), precision) for _ in range(2))

    @tf.function(autograph=False)
    def product(x, y):
        return tf.reduce_sum(tf.cast(x @ y, tf.float32))

    def run() -> int:
        for _ in range(times):
            value = product(left, right)
        float(value)
        return times * 2 * side**3 // 10**6

    return run
