"""What this machine can do, and what is chosen for it, each choice with its reason."""

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
LEAST = 4  # patches of a batch that a replica has to get: two of each class say how varied they are
# What TensorFlow and LiteRT write while they load, whatever their log level is: notes, no warning and no error.
CHATTER = "^(I[0-9]{4} |WARNING: All log messages before absl|INFO: Created TensorFlow Lite)"


def prepare_environment(tensorflow: bool = False) -> None:
    """Switches that count only before TensorFlow and OpenCV are imported: kernels, chatter, the largest image.

    Args:
        tensorflow: bool. Whether to import TensorFlow too, without its chatter. Defaults to False.
    """
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if tensorflow and "tensorflow" not in sys.modules:
        with quiet():
            import tensorflow  # noqa: F401


@contextmanager
def quiet() -> Iterator[None]:
    """Standard error without CHATTER, as long as TF_CPP_MIN_LOG_LEVEL asks for little.

    A process of its own filters it: what TensorFlow says before it aborts still comes through.
    """
    grep = shutil.which("grep")
    if not grep or os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        yield
        return
    sys.stderr.flush()
    stderr_copy = os.dup(2)
    # In a session of its own: Ctrl-C is for this process, whose last words it has to pass on.
    with subprocess.Popen(
        [grep, "-avE", CHATTER], stdin=subprocess.PIPE, stdout=stderr_copy, start_new_session=True
    ) as filter_process:
        os.dup2(filter_process.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr_copy, 2)
            os.close(stderr_copy)


def processor() -> dict[str, Any]:
    """Model name, cores, and the bfloat16 instructions among its flags."""
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
    """Keras's dtype policy and why."""
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
    """Refuse what would be emulated here, correct and many times slower than float32.

    Raises:
        InputError: a precision that this machine lacks.
    """
    if precision == "mixed_float16" and not gpus:
        raise InputError("precision: mixed_float16 needs a GPU, and none was found. Set precision=auto.")
    if precision == "mixed_bfloat16" and not gpus and not processor()["bfloat16"]:
        raise InputError(
            f"precision: mixed_bfloat16 needs a GPU or a processor with {' or '.join(BFLOAT16_FLAGS)}, and neither was "
            "found. Set precision=auto."
        )


def choose_xla(experiment: Experiment, gpus: int) -> tuple[bool, str]:
    """Whether training steps are compiled by XLA, and why."""
    if experiment.xla != "auto":
        return experiment.xla == "on", "the experiment says so"
    if experiment.profile == "repro":
        return False, "profile repro, and XLA's gradient of max pooling is not deterministic"
    return (True, "a GPU") if gpus else (False, "slower than oneDNN on processors")


def cluster() -> dict[str, Any] | None:
    """TF_CONFIG as {"workers": addresses, "index": of this one}; None where it is not set.

    Raises:
        InputError: it does not parse, or names no such worker.
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
        [int(address.rpartition(":")[2]) for address in workers]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"TF_CONFIG is {text!r}, which names no worker of a cluster of workers alone. Write {example}."
        ) from error
    return {"workers": workers, "index": index}


def choose_distribution(experiment: Experiment, gpus: int) -> tuple[str, str]:
    """What trains gan and classify, and why: "one" device, "mirrored <n>" GPUs of this machine, or "workers".

    Raises:
        InputError: `distribute: on` with nothing to share the work with.
    """
    if experiment.distribute == "off":
        return "one", "the experiment says so"
    if workers := cluster():
        return "workers", f"TF_CONFIG names {len(workers['workers'])}"
    batches = (experiment.gan.batch_size, experiment.classify.batch_size)
    count = max((n for n in range(2, gpus + 1) if all(shares(batch, n) for batch in batches)), default=1)
    if count > 1:
        return f"mirrored {count}", f"of {gpus} GPUs as many as divide the batches of gan and classify"
    if experiment.distribute == "on":
        raise InputError(
            "distribute: on, but there is no TF_CONFIG, and no two GPUs that could share the batches of gan and "
            "classify. Set distribute=auto."
        )
    return "one", "no TF_CONFIG, and no two GPUs to share the batches"


def shares(batch: int, replicas: int) -> bool:
    """Whether so many replicas can share a batch evenly, each with no less than LEAST of its patches."""
    return batch % replicas == 0 and (replicas == 1 or batch // replicas >= LEAST)


def choices(experiment: Experiment) -> dict[str, tuple[Any, str]]:
    """Everything set automatically, as {name: (value, reason)}. Imports TensorFlow to look for a GPU."""
    prepare_environment(tensorflow=True)
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    return {
        "precision": choose_precision(experiment, gpus),
        "xla": choose_xla(experiment, gpus),
        "distribute": choose_distribution(experiment, gpus),
        "onednn": (
            os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1",
            "TF_ENABLE_ONEDNN_OPTS, before TensorFlow loads",
        ),
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


def start(experiment: Experiment) -> bool:
    """Set precision, seeds and determinism for this process.

    Returns:
        bool. Whether steps are to be compiled by XLA.

    Raises:
        InputError: a precision that this machine lacks.
    """
    chosen = choices(experiment)
    import keras
    import tensorflow as tf

    precision, xla = chosen["precision"][0], chosen["xla"][0]
    check_precision(precision, chosen["gpus"][0])
    keras.mixed_precision.set_global_policy(precision)
    keras.utils.set_random_seed(experiment.seed)
    if experiment.profile == "repro":
        tf.config.experimental.enable_op_determinism()
    return xla


def environment() -> dict[str, Any]:
    """Versions and hardware, for the provenance block."""
    packages = ("tensorflow", "keras", "numpy", "opencv-python", "scikit-learn", "pandas", "matplotlib")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    """The version of a package or of its variant for processors or servers; None where there is none."""
    for name in (package, f"{package}-headless", f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
