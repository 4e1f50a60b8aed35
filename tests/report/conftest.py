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


def with_trainings(run: Run, **counts: int) -> Run:
    """Return the run with so many trainings of some classifiers, which all predict the same."""
    others = [column for column in run.probabilities if column.rpartition("-seed")[0] not in counts]
    values = run.probabilities["gan_resnet-seed0"]
    columns = {f"{name}-seed{seed}": values for name, count in counts.items() for seed in range(count)}
    return run._replace(probabilities=run.probabilities[others].assign(**columns))


@pytest.fixture
def test_rows(run) -> pd.DataFrame:
    return run.test_predictions


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")
