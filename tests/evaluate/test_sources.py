"""Results on the test patches of each folder or archive."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bcgan.evaluate import intervals, score

BOOTSTRAP = (20, 0.95, 0)


def make_table() -> pd.DataFrame:
    """Return 360 patches of two archives, a third of them of validation patients."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 360)
    return pd.DataFrame({
        "source": np.tile(["first.zip", "second.zip"], 180), "patient": np.repeat(np.arange(12), 30).astype(str),
        "label": labels, "role": np.repeat(["validation", "test", "test"], 120),
        "scores": labels + rng.normal(0, 1, 360),
    })  # fmt: skip


def predict(table: pd.DataFrame) -> intervals.SeedPredictions:
    return intervals.SeedPredictions({0: table["scores"].to_numpy()}, {0: 0.5})


def test_each_archive_has_the_metrics_of_its_own_test_patches():
    table = make_table()
    by_source = score._measure_sources(table, predict(table), BOOTSTRAP)
    assert list(by_source) == ["first.zip", "second.zip"]
    for name, measured in by_source.items():
        rows = table[(table["source"] == name) & (table["role"] == "test")]
        assert (measured["patches"], measured["patients"]) == (120, 8)
        assert measured["roc_auc"]["value"] == pytest.approx(roc_auc_score(rows["label"], rows["scores"]))
        assert measured["roc_auc"]["low"] < measured["roc_auc"]["value"] < measured["roc_auc"]["high"]


def test_one_archive_is_not_listed_by_itself():
    """The other archive may have validation patches."""
    table = make_table()
    table.loc[table["role"] == "test", "source"] = "first.zip"
    assert score._measure_sources(table, predict(table), BOOTSTRAP) == {}
