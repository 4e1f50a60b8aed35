"""A run with enough patients for the audit, and generators whose patches are known."""

import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest

from bcgan import execution, experiment
from bcgan.data.histology_phantom.canvas import patient_style
from bcgan.data.histology_phantom.tissue import render_patch
from bcgan.predict import sample
from bcgan.release import privacy, utility
from bcgan.release.release import Request, release
from tests.conftest import EXPERIMENT, made_once, untraced, use_few_samples, write_png

PATIENTS, PATCHES, LATENT = 60, 8, 8
FIRST_NAME = 7_010_010_000  # patients' names are numbers so long that no other number of a release has their digits
STRANGERS = 5000  # the first number of patients that are in no run
NUMBER = 300
REQUEST = Request(NUMBER, "CC-BY-4.0", "Pathology, Example Hospital", 0)
BANK = 300  # patches of a class that a generator of these tests can make


def draw(patient: int, count: int) -> list[tuple[int, np.ndarray]]:
    """Labels and patches of one patient."""
    rng = np.random.default_rng(patient)
    style = patient_style(rng)
    return [(number % 2, render_patch(style, number % 2, rng).image) for number in range(count)]


@pytest.fixture(scope="session")
def patches_of_many(tmp_path_factory) -> Path:
    """Phantom patches of 60 patients, under the public archive's names."""

    def make(root: Path) -> None:
        for patient in range(PATIENTS):
            for number, (label, image) in enumerate(draw(patient, PATCHES)):
                file = f"{FIRST_NAME + patient}_idx5_x{50 * number + 1}_y51_class{label}.png"
                write_png(root / str(FIRST_NAME + patient) / str(label) / file, image)

    return made_once(tmp_path_factory, "patches_of_many", make)


@pytest.fixture(scope="session")
def audited_run(tmp_path_factory, patches_of_many) -> Path:
    """A folder with the first stages of an experiment of 60 patients, runs/audited: 20 for each role."""

    def make(root: Path) -> None:
        text = EXPERIMENT.format(folder=patches_of_many).replace("num_folds: 4", "num_folds: 3")
        text = text.replace("translate: {steps: 2, batch_size: 4, base_channels: 4}\n", "")
        text += "release: {networks: [cnn], epochs: 2, tuning_patients: [2]}\n"
        (root / "audited.yaml").write_text(text.replace("name: tiny", "name: audited"), "utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            use_few_samples(patch)
            with untraced():
                execution.execute(experiment.load("audited.yaml"), until="features")

    return made_once(tmp_path_factory, "audited", make)


def bank_generator(patches: Sequence[np.ndarray]) -> keras.Model:
    """A generator that knows some patches of each of two classes, and returns one of them as it is.

    Args:
        patches: uint8, (n, size, size, 3) for each class, as many of each.
    """
    size, count = patches[0].shape[1], len(patches[0])
    noise = keras.Input((LATENT,), name="noise")
    label = keras.Input((), dtype="int32", name="label")
    grain = keras.Input((size, size, 1), name="grain")
    number = keras.ops.cast(keras.ops.abs(noise[:, 0]) * 1e4, "int32") % count + label * count
    bank = keras.layers.Embedding(2 * count, size * size * 3, name="bank")
    image = keras.layers.Reshape((size, size, 3))(bank(number))
    model = keras.Model([noise, label, grain], image + 0 * grain)
    bank.set_weights([np.concatenate(patches).reshape(2 * count, -1).astype(np.float32) / 255])
    return model


@cache
def fresh_patches(first_patient: int, count: int = BANK) -> tuple[np.ndarray, ...]:
    """Patches of patients that no run has, for each class. Drawn once: a test that changes some uses copies."""
    pairs = [draw(first_patient + index, 2) for index in range(count)]
    return tuple(np.stack([pair[label][1] for pair in pairs]) for label in (0, 1))


@contextmanager
def generating(patches: Sequence[np.ndarray]):
    """Give the run in the current folder a generator of known patches, a filter that accepts all, fast features,
    small networks and a short tuning.

    Yields the run's settings and folder.
    """
    load = sample.load

    def load_bank(name: str) -> sample.GeneratorBundle:
        bundle = load(name)
        accepts_all = bundle.quality_filter._replace(limits=np.full(2, np.inf), confidence=0.0)
        return bundle._replace(generator=bank_generator(patches), quality_filter=accepts_all)

    with untraced(), pytest.MonkeyPatch.context() as patch:
        use_few_samples(patch)
        patch.setattr(utility, "TUNING_STEPS", 2)
        patch.setattr(sample, "load", load_bank)
        patch.setattr(privacy, "has_weights", lambda _: False)  # the reference CNN is faster than EfficientNet-Lite2
        yield execution.load_finished_run(experiment.load("audited.yaml"), until="features")


@pytest.fixture
def copied(audited_run, tmp_path, monkeypatch) -> Path:
    """The run's folder, in a copy in the current folder."""
    shutil.copytree(audited_run, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return Path("runs/audited")


@pytest.fixture(scope="session")
def released(tmp_path_factory, audited_run) -> Path:
    """A folder with a run, and a release of patches of nobody in it, out/. All workers read it."""

    def make(root: Path) -> None:
        shutil.copytree(audited_run, root, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            with generating(fresh_patches(STRANGERS)) as (settings, run):
                release(settings, run, REQUEST, Path("out"))

    return made_once(tmp_path_factory, "released", make)
