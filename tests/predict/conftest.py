"""The tiny run's classifier, exported once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bcgan
from bcgan import cli
from bcgan.predict.model import VERDICTS, Model
from bcgan.predict.tile import PATCH_SCALE
from bcgan.slides.files import find_images
from bcgan.slides.patches import read_patch


@pytest.fixture(scope="session")
def model(exported) -> Model:
    return bcgan.load(exported)


@pytest.fixture(scope="session")
def patches(idc_folder) -> np.ndarray:
    return read_patches(image.local for image in find_images([str(idc_folder)]))


def read_patches(paths) -> np.ndarray:
    """Files that are one patch each, at the scale of the public archive."""
    return np.stack([read_patch(path, PATCH_SCALE) for path in paths])


def find_paths(folder: Path) -> list[Path]:
    return [image.local for image in find_images([str(folder)])]


def count_verdicts(counts_by_slide) -> int:
    """Return the number of rows of `bcgan predict` from the counts that it returns."""
    return sum(counts[verdict] for counts in counts_by_slide.values() for verdict in VERDICTS)


def command(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", *map(str, arguments)])
    return stop.value.code


def check_that_it_follows_the_device(path):
    """Compute on PyTorch's device without memory, which refuses operations with tensors of another device."""
    script = (
        "import sys, torch; module, images = torch.jit.load(sys.argv[1]), torch.zeros(3, 3, 70, 70, device='meta')\n"
        "try: images + torch.zeros(3, 3, 70, 70)\n"
        "except RuntimeError: print(tuple(module(images).shape), module(images).device)"
    )  # in a process of its own: PyTorch loads Triton for this, which crashes after TensorFlow
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, path], capture_output=True, text=True)
    assert done.stdout == "(3, 4) meta\n", done.stderr
