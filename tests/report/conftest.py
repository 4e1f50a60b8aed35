"""Fixtures of the tests of the report: the finished run, read once."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from bcgan import experiment
from bcgan.report.run import Run
from bcgan.report.run_files import read


@pytest.fixture(scope="session")
def tiny_run(finished) -> Run:
    return read(experiment.load(str(finished / "tiny.yaml")), finished / "runs/tiny", True)


@pytest.fixture(scope="module")
def run(tiny_run) -> Run:
    """The run that a module's tests draw; a module may change it."""
    return tiny_run


@pytest.fixture
def test_rows(run) -> pd.DataFrame:
    return run.test_predictions


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")
