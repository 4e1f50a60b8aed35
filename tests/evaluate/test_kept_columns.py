"""What the stage evaluate keeps of its earlier probabilities: those of unchanged networks, for the same patches."""

import numpy as np
import pandas as pd
import pytest

from bcgan import experiment, runs
from bcgan.evaluate.score import kept_columns

SETTINGS = ("classify.models={cnn: {}, resnet34: {}}", "classify.seeds=[0]")
INPUTS = {"preprocess/index.csv": "a", "classify/cnn-seed0.keras": "b", "classify/resnet34-seed0.keras": "c"}
TABLE = pd.DataFrame({"id": ["x", "y"]})


@pytest.fixture
def folder(tmp_path):
    before = tmp_path / "evaluate.before"
    before.mkdir()
    table = TABLE.assign(**{"cnn-seed0": np.float32([0.1, 0.2]), "resnet34-seed0": [0.3, 0.4], "ensemble-seed0": 0.5})
    table.to_csv(before / "probabilities.csv", index=False, float_format="%.9g")
    outputs = {"probabilities.csv": runs.hash_file(before / "probabilities.csv")}
    settings = experiment.load("phantom", SETTINGS).model_dump(mode="json")
    runs.write_json(before / runs.MANIFEST, {"settings": settings, "inputs": INPUTS, "outputs": outputs})
    (tmp_path / "evaluate").mkdir()
    return tmp_path / "evaluate"


def kept(folder, *changes, table=TABLE, afresh=False, **inputs):
    named = {f"{name.replace('_', '/', 1)}": digest for name, digest in inputs.items()}
    runs.write_json(folder / runs.UNFINISHED, {"inputs": INPUTS | named, "afresh": afresh})
    return kept_columns(experiment.load("phantom", (*SETTINGS, *changes)), table, folder)


def test_probabilities_of_unchanged_networks_stay_to_the_last_bit(folder):
    found = kept(folder)
    assert set(found) == {"cnn-seed0", "resnet34-seed0"}
    np.testing.assert_array_equal(found["cnn-seed0"], np.float32([0.1, 0.2]))
    assert found["cnn-seed0"].dtype == np.float32


def test_a_network_that_changed_is_asked_again(folder):
    assert set(kept(folder, **{"classify_resnet34-seed0.keras": "other"})) == {"cnn-seed0"}


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        (("evaluate.views=1",), {}),
        (("precision=float32",), {}),
        (("classify.crop=40",), {}),
        ((), {"preprocess_index.csv": "other"}),
        ((), {"table": TABLE[::-1].reset_index(drop=True)}),
        ((), {"afresh": True}),
    ],
)
def test_under_other_circumstances_all_are_asked_again(folder, changes, more):
    assert kept(folder, *changes, **more) == {}


@pytest.mark.parametrize("name", ["probabilities.csv", runs.MANIFEST])
def test_what_was_damaged_is_not_kept(folder, name):
    (runs.aside(folder) / name).write_text("id,cnn-seed0\nx,0.9\ny,0.9\n")
    assert kept(folder) == {}
