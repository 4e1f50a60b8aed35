"""Detect the hardware, and choose precision, XLA and distribution for it, each with a reason."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bcgan.errors import InputError
from bcgan.experiment import Experiment

BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")
# Of each batch: with two of each class, the spread within a class can be estimated.
MIN_PATCHES_PER_REPLICA = 4
# Notes that TensorFlow and LiteRT write while they load, at any log level; none is a warning or an error.
LOADING_MESSAGES = "^(I[0-9]{4} |WARNING: All log messages before absl|INFO: Created TensorFlow Lite)"


def prepare_environment(tensorflow: bool = False) -> None:
    """Set the environment variables that TensorFlow and OpenCV read once, when they are imported.

    Args:
        tensorflow: Whether to import TensorFlow too, without its loading messages.
    """
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if tensorflow and "tensorflow" not in sys.modules:
        with suppress_loading_messages():
            import tensorflow  # noqa: F401


@contextmanager
def suppress_loading_messages() -> Iterator[None]:
    """Yield with LOADING_MESSAGES filtered out of standard error, unless TF_CPP_MIN_LOG_LEVEL asks for them.

    A separate process filters, so that what TensorFlow writes just before it aborts is still shown.
    """
    grep = shutil.which("grep")
    if not grep or os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        yield
        return
    sys.stderr.flush()
    stderr_copy = os.dup(2)
    # In a new session: Ctrl-C must not stop the filter before it has passed on this process's last messages.
    with subprocess.Popen(
        [grep, "-avE", LOADING_MESSAGES], stdin=subprocess.PIPE, stdout=stderr_copy, start_new_session=True
    ) as filter_process:
        os.dup2(filter_process.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr_copy, 2)
            os.close(stderr_copy)


def processor() -> dict[str, Any]:
    """Return the processor's `name`, its number of `cores`, and its `bfloat16` instructions, [] if it has none.

    Cores are those that this process may use. Instructions are known only where /proc/cpuinfo lists them.
    """
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        text = ""
    fields = dict(line.split("\t: ", 1) for line in text.splitlines() if "\t: " in line)
    flags = fields.get("flags\t", fields.get("flags", "")).split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"name": name, "cores": cores, "bfloat16": [flag for flag in BFLOAT16_FLAGS if flag in flags]}


def choose_precision(experiment: Experiment, gpus: int) -> tuple[str, str]:
    """Return Keras's dtype policy for this machine, and the reason."""
    if experiment.precision != "auto":
        return experiment.precision, "the experiment says so"
    if experiment.profile == "repro":
        return "float32", "profile repro"
    if gpus:
        return "mixed_bfloat16", "a GPU"
    instructions = processor()["bfloat16"]
    if instructions:
        return "mixed_bfloat16", f"the processor has {' and '.join(instructions)}"
    return "float32", "the processor has no bfloat16 instructions"


def check_precision(precision: str, gpus: int) -> None:
    """Refuse a precision that would be emulated here: correct, but many times slower than float32.

    Raises:
        InputError: If this machine lacks the precision.
    """
    if precision == "mixed_float16" and not gpus:
        raise InputError("precision: mixed_float16 needs a GPU, and none was found. Set precision=auto.")
    if precision == "mixed_bfloat16" and not gpus and not processor()["bfloat16"]:
        raise InputError(
            f"precision: mixed_bfloat16 needs a GPU or a processor with {' or '.join(BFLOAT16_FLAGS)}, and neither was "
            "found. Set precision=auto."
        )


def choose_xla(experiment: Experiment, gpus: int) -> tuple[bool, str]:
    """Return whether XLA compiles training steps, and the reason."""
    if experiment.xla != "auto":
        return experiment.xla == "on", "the experiment says so"
    if experiment.profile == "repro":
        return False, "profile repro, and XLA's gradient of max pooling is not deterministic"
    return (True, "a GPU") if gpus else (False, "slower than oneDNN on processors")


def cluster() -> dict[str, Any] | None:
    """Return the cluster in TF_CONFIG: `workers`, their addresses, and `index`, of this one; `None` if it is not set.

    Raises:
        InputError: If it cannot be parsed, or has no worker of that index.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    example = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        workers, index = config["cluster"]["worker"], int(config["task"]["index"])
        if not 0 <= index < len(workers) or len(config["cluster"]) > 1:
            raise IndexError(index)
        for address in workers:
            int(address.rpartition(":")[2])  # raises ValueError without a port
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"TF_CONFIG is {text!r}, which does not describe a worker in a cluster of workers. Write {example}."
        ) from error
    return {"workers": workers, "index": index}


def choose_distribution(experiment: Experiment, gpus: int) -> tuple[str, str]:
    """Choose which devices train the GAN and the classifiers.

    Args:
        gpus: Number of GPUs of this machine.

    Returns:
        "one" device, "mirrored <n>" for n GPUs here, or "workers", which are those in TF_CONFIG; and the reason.

    Raises:
        InputError: If `distribute` is on, but there is no TF_CONFIG and no two GPUs can share the batches.
    """
    if experiment.distribute == "off":
        return "one", "the experiment says so"
    if workers := cluster():
        return "workers", f"TF_CONFIG names {len(workers['workers'])}"
    batches = (experiment.gan.batch_size, experiment.classify.batch_size)
    usable = [n for n in range(2, gpus + 1) if all(can_share_batch(batch, n) for batch in batches)]
    count = max(usable, default=1)
    if count > 1:
        return f"mirrored {count}", f"{count} of {gpus} GPUs can share the batches of gan and classify equally"
    if experiment.distribute == "on":
        raise InputError(
            "distribute: on, but there is no TF_CONFIG, and no two GPUs that could share the batches of gan and "
            "classify. Set distribute=auto."
        )
    return "one", "no TF_CONFIG, and no two GPUs to share the batches"


def can_share_batch(batch_size: int, replicas: int) -> bool:
    """Return whether replicas can share a batch evenly, each with MIN_PATCHES_PER_REPLICA or more."""
    return batch_size % replicas == 0 and (replicas == 1 or batch_size // replicas >= MIN_PATCHES_PER_REPLICA)


def choose_settings(experiment: Experiment) -> dict[str, tuple[Any, str]]:
    """Return everything that is set automatically, as {name: (value, reason)}. Imports TensorFlow to look for a GPU."""
    prepare_environment(tensorflow=True)
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    return {
        "precision": choose_precision(experiment, gpus),
        "xla": choose_xla(experiment, gpus),
        "distribute": choose_distribution(experiment, gpus),
        "onednn": (os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1", "TF_ENABLE_ONEDNN_OPTS, before TensorFlow loads"),
        "gpus": (gpus, "found by TensorFlow"),
        "threads": (processor()["cores"], "every core that this process may use; taskset allows fewer"),
        "blas": (
            os.environ.get("OPENBLAS_NUM_THREADS", "every core"),
            "OPENBLAS_NUM_THREADS; NumPy's threads that wait for a busy core make a product up to 25 times as slow",
        ),
        "batch": (
            f"{experiment.classify.batch_size}, GAN {experiment.gan.batch_size}",
            "classify.batch_size and gan.batch_size of the experiment; no machine changes them",
        ),
        "deterministic": (experiment.profile == "repro", f"profile {experiment.profile}"),
    }


def configure(experiment: Experiment) -> bool:
    """Set precision, seeds and determinism for this process.

    Returns:
        Whether XLA is to compile training steps.

    Raises:
        InputError: If this machine lacks the precision.
    """
    settings = choose_settings(experiment)
    import keras
    import tensorflow as tf

    precision, xla, gpus = (settings[name][0] for name in ("precision", "xla", "gpus"))
    check_precision(precision, gpus)
    keras.mixed_precision.set_global_policy(precision)
    keras.utils.set_random_seed(experiment.seed)
    if experiment.profile == "repro":
        tf.config.experimental.enable_op_determinism()
    return xla


def environment() -> dict[str, Any]:
    """Return the versions of Python and packages, and the hardware, for manifests and the report.

    Returns:
        python, system: Texts.
        processor: As `processor` returns it.
        packages: Version by name; `None` for a package that is not installed.
    """
    packages = ("tensorflow", "keras", "numpy", "opencv-python", "scikit-learn", "pandas", "matplotlib")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    """Return the version of a package or of its `-headless` or `-cpu` variant; `None` if none is installed."""
    for name in (package, f"{package}-headless", f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
