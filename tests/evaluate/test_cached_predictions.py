"""The stage evaluate repeats only predictions whose network, patches or settings changed."""

import keras
import numpy as np
import pandas as pd
import pytest

from bcgan import experiment
from bcgan.artifacts import Cache, StageRun
from bcgan.evaluate import score

SETTINGS = ("classify.models={cnn: {}, resnet34: {}}", "classify.seeds=[0]")
INPUTS = {"preprocess/index.csv": "a", "classify/cnn-seed0.keras": "b", "classify/resnet34-seed0.keras": "c"}
IMAGES = np.zeros((2, 50, 50, 3), np.uint8)


@pytest.fixture
def predict(tmp_path, monkeypatch):
    """Call `score._predict`, and return the columns and the names of the networks that were asked."""
    calls = []
    monkeypatch.setattr(score.weights, "load_model", lambda path: calls.append(path.stem) or keras.Model)
    monkeypatch.setattr(score, "predict_probabilities", lambda *_: np.float32([0.1, len(calls)]))

    def run(*changes, inputs=INPUTS):
        calls.clear()
        settings, table = experiment.load("phantom", (*SETTINGS, *changes)), pd.DataFrame({"id": ["x", "y"]})
        stage_run = StageRun(settings, tmp_path, tmp_path, inputs, Cache(tmp_path, "evaluate"))
        score._predict(stage_run, IMAGES, table)
        return table, list(calls)

    return run


def test_probabilities_of_unchanged_networks_stay_to_the_last_bit(predict):
    first, calls = predict()
    assert calls == ["cnn-seed0", "resnet34-seed0"]
    again, calls = predict("evaluate.bootstrap_samples=10")
    assert calls == []
    assert again["cnn-seed0"].dtype == np.float32
    pd.testing.assert_frame_equal(first, again)


def test_a_network_that_changed_predicts_again(predict):
    predict()
    assert predict(inputs=INPUTS | {"classify/resnet34-seed0.keras": "other"})[1] == ["resnet34-seed0"]
    assert predict()[1] == []


@pytest.mark.parametrize(
    ("changes", "inputs"),
    [
        (("evaluate.tta_views=1",), {}), (("precision=float32",), {}), (("classify.crop_size=40",), {}),
        ((), {"preprocess/index.csv": "other"}),
    ],
)  # fmt: skip
def test_other_settings_and_patches_predict_again(predict, changes, inputs):
    predict()
    assert predict(*changes, inputs=INPUTS | inputs)[1] == ["cnn-seed0", "resnet34-seed0"]
