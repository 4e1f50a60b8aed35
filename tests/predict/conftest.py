"""The tiny run's classifier, exported once."""

from pathlib import Path

import numpy as np
import pytest

import bcgan
from bcgan import cli
from bcgan.predict import images
from bcgan.predict.model import Model


@pytest.fixture(scope="session")
def exported(finished, tmp_path_factory) -> Path:
    """The tiny run's classifier, as `bcgan export` writes it."""
    out = tmp_path_factory.mktemp("exported") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        with pytest.raises(SystemExit) as stop:
            cli.main(["export", "tiny.yaml", "--out", str(out)])
    assert stop.value.code == 0
    return out


@pytest.fixture(scope="session")
def model(exported) -> Model:
    return bcgan.load(exported)


@pytest.fixture(scope="session")
def patches(idc_folder) -> np.ndarray:
    return np.stack([images.read(path, 50, 1.0).patches[0] for path in images.find([str(idc_folder)])])


def command(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", *map(str, arguments)])
    return stop.value.code
