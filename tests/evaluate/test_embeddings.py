"""`bcgan probe`: features of any model, scored on held-out patients."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest

from bcgan import cli
from bcgan.errors import InputError
from bcgan.evaluate import embedding_probes, embeddings
from bcgan.evaluate.embeddings import Embeddings
from bcgan.evaluate.paired import BootstrapSettings

BOOTSTRAP = BootstrapSettings(50, 0.95, 0)
PATIENTS, PATCHES = 12, 10


def features_of(signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features in which a class is shifted by `signal`, and every patient by a random vector."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{number:02d}" for number in range(PATIENTS)], PATCHES)
    labels = np.tile([0, 1], len(patients) // 2)
    shifts = np.repeat(rng.normal(size=(PATIENTS, 6)), PATCHES, 0)
    features = shifts + rng.normal(size=shifts.shape)
    features[:, 0] += signal * labels
    return features.astype(np.float32), labels, patients


@pytest.fixture
def npz(tmp_path):
    """A function that writes arrays to a file."""

    def write(name: str = "features.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def probe(arguments: list, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["probe", *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_features_that_tell_the_classes_apart_score_high_and_noise_does_not(npz, tmp_path, capsys):
    areas = {}
    for signal in (0.0, 8.0):
        features, labels, patients = features_of(signal)
        path = npz(features=features, labels=labels, patients=patients)
        code, out, _ = probe([path, "--out", tmp_path / "results.json"], capsys)
        assert code == 0
        assert "6 dimensions, 120 patches of 12 patients, 12 tested" in out
        results = json.loads((tmp_path / "results.json").read_text("utf-8"))
        areas[signal] = {name: results[name]["roc_auc"]["value"] for name in ("linear", "neighbors")}
        assert f"{areas[signal]['linear']:.3f}" in out
    assert all(0.3 < area < 0.7 for area in areas[0.0].values())
    assert all(area > 0.95 for area in areas[8.0].values())


def test_features_that_only_identify_patients_score_at_chance():
    """Every patient has one class and a cluster: with a split by patches this would be an AUC of 1."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{number:02d}" for number in range(40)], PATCHES)
    labels = np.repeat(rng.permutation([0, 1] * 20), PATCHES)
    places = np.repeat(10 * rng.normal(size=(40, 5)), PATCHES, 0) + rng.normal(size=(400, 5))
    results = embedding_probes.probe(
        Embeddings(places.astype(np.float32), None, labels, patients, None), (0,), BOOTSTRAP
    )
    for name in ("linear", "neighbors"):
        assert 0.2 < results[name]["roc_auc"]["value"] < 0.8


def test_the_order_of_patches_and_the_container_change_nothing(npz, tmp_path):
    features, labels, patients = features_of(2.0)
    order = np.random.default_rng(1).permutation(len(labels))
    plain = embeddings.read(npz(features=features, labels=labels, patients=patients))
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["features"], file["labels"] = features[order], labels[order]
        file["patients"] = [name.encode() for name in patients[order]]
    shuffled = embeddings.read(tmp_path / "features.h5")
    first, second = (embedding_probes.probe(each, (0,), BOOTSTRAP) for each in (plain, shuffled))
    for name in ("linear", "neighbors"):
        assert first[name]["roc_auc"]["value"] == pytest.approx(second[name]["roc_auc"]["value"], abs=1e-6)


def test_labels_may_be_names_of_the_classes(npz):
    features, labels, patients = features_of(2.0)
    named = embeddings.read(npz(features=features, labels=np.array(["Benign", "malignant"])[labels], patients=patients))
    np.testing.assert_array_equal(named.labels, labels)


def test_patches_of_tridents_slides_are_found_in_a_table_by_their_coordinates(tmp_path, capsys):
    features, labels, patients = features_of(8.0)
    rows, files = [], []
    for number, name in enumerate(np.unique(patients)):
        chosen = patients == name
        coords = np.stack([256 * np.arange(PATCHES), np.full(PATCHES, 512)], 1)
        path = tmp_path / f"slide{number}.h5"
        with h5py.File(path, "w") as file:
            file["features"], file["coords"] = features[chosen][None], coords
        files.append(path)
        rows += [
            (f"scans/slide{number}.svs", x, y, label, name)
            for (x, y), label in zip(coords, labels[chosen], strict=True)
        ]
    table = pd.DataFrame(rows, columns=["image", "x", "y", "label", "patient"])
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "labels.csv", index=False)
    code, out, _ = probe([*files, "--labels", tmp_path / "labels.csv"], capsys)
    assert code == 0
    assert "120 patches of 12 patients, 12 tested" in out
    table.iloc[1:].to_csv(tmp_path / "labels.csv", index=False)
    code, _, error = probe([*files, "--labels", tmp_path / "labels.csv"], capsys)
    assert code == 2
    assert "1 of 10 places are not in the table; the first is slide0, 0, 512" in error


def test_a_runs_patches_are_found_by_their_ids(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    index = pd.read_csv("runs/tiny/preprocess/index.csv", dtype={"id": str, "patient": str}).sample(
        frac=1, random_state=0
    )
    features = np.random.default_rng(0).normal(size=(len(index), 4)) + 5 * index[["label"]].to_numpy()
    np.savez(tmp_path / "own.npz", features=features, ids=index["id"].to_numpy(str))
    code, out, _ = probe([tmp_path / "own.npz", "--run", "tiny.yaml"], capsys)
    assert code == 0
    counts = index.groupby("role")["patient"].nunique()
    used = index[index["role"].isin(embeddings.ROLES)]
    assert f"{len(used)} patches of {used['patient'].nunique()} patients, {counts['test']} tested" in out
    assert "ROC AUC 1.000" in out
    np.savez(tmp_path / "own.npz", features=features, ids=np.char.add(index["id"].to_numpy(str), "x"))
    code, _, error = probe([tmp_path / "own.npz", "--run", "tiny.yaml"], capsys)
    assert code == 2
    assert "None of 80 ids is of a train patch of tiny.yaml" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "no array `features`"),
        ({"patients": None}, "come without patients. .*--run"),
        ({"labels": None}, "come without labels"),
        ({"patients": lambda values: np.where(values == "p03", "P01 ", values)}, "'P01' and 'p01' differ in spelling"),
        ({"patients": lambda values: np.where(values == "p03", "", values)}, "patch 30, counted from 0, is ''"),
        ({"features": lambda values: values[:, :0]}, r"float32 of shape \(120, 0\)"),
        ({"features": lambda values: values * 0}, "features of all 120 patches are the same"),
        ({"labels": lambda values: np.array(1)}, r"labels has the shape \(\)"),
        ({"labels": lambda values: values + 10**6}, "label '1000000' is neither"),
        ({"labels": lambda values: np.array(["0", "²"])[values]}, "label '²' is neither"),
        ({"labels": lambda values: values.astype(object)}, r"cannot be read \(ValueError.*astype\(str\)"),
        ({"features": lambda values: np.where(np.arange(len(values))[:, None] == 7, np.nan, values)},
         "1 patches are not finite; the first is number 7"),
        ({"features": lambda values: values[:, 0]}, r"shape \(120,\)"),
        ({"labels": lambda values: values[:-1]}, r"labels has the shape \(119,\), and there are 120 features"),
        ({"labels": lambda values: values * 0}, r"The labels are 0\. Number"),
        ({"labels": lambda values: values * 2}, r"The labels are 0, 2\. Number"),
        ({"labels": lambda values: np.array(["benign", "ductal"])[values]}, "label 'ductal' is neither"),
        ({"patients": lambda values: np.where(values < "p06", "a", "b")}, r"Label 0 occurs in 2 patients\. 5 or more"),
    ],
)  # fmt: skip
def test_features_that_cannot_be_measured_are_refused(npz, capsys, change, message):
    arrays = dict(zip(("features", "labels", "patients"), features_of(1.0), strict=True))
    for name, modify in change.items():
        arrays[name] = modify(arrays[name]) if modify else None
    path = npz(**{name: values for name, values in arrays.items() if values is not None})
    code, _, error = probe([path], capsys)
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(InputError, match=message):
        raise InputError(error)


def test_files_that_cannot_be_read_or_combined_are_refused(tmp_path, npz, capsys):
    features, labels, patients = features_of(1.0)
    (tmp_path / "features.csv").write_text("1,2", "utf-8")
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    np.savez(tmp_path / "pickled.npz", features=np.array([{}], object))
    first = npz("first.npz", features=features, labels=labels, patients=patients)
    narrow = npz("narrow.npz", features=features[:, :3], labels=labels, patients=patients)
    by_id = npz("by_id.npz", features=features, ids=np.arange(len(labels)).astype(str))
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", features)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("features")
    cases = {
        (tmp_path / "features.csv",): "neither .npz nor .h5",
        (tmp_path / "broken.h5",): "cannot be read",
        (tmp_path / "pickled.npz",): "cannot be read",
        (first, narrow): "3 dimensions and",
        (first, by_id): "other arrays than",
        (first, first): "is given twice",
        (tmp_path / "empty.npz",): "cannot be read",
        (tmp_path / "array.npz",): "cannot be read",
        (tmp_path / "group.h5",): "cannot be read",
    }
    for files, message in cases.items():
        code, _, error = probe(list(files), capsys)
        assert code == 2
        assert message in error


def test_an_id_that_occurs_twice_is_refused(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    index = pd.read_csv("runs/tiny/preprocess/index.csv", dtype={"id": str})
    np.savez(tmp_path / "own.npz", features=np.zeros((2, 3)), ids=index["id"].to_numpy(str)[[0, 0]])
    code, _, error = probe([tmp_path / "own.npz", "--run", "tiny.yaml"], capsys)
    assert code == 2
    assert "occurs 2 times" in error


def test_two_slides_of_one_name_are_refused(tmp_path, capsys):
    features, _, _ = features_of(1.0)
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "slide.h5")
        with h5py.File(files[-1], "w") as file:
            file["features"], file["coords"] = features[:4], np.arange(8).reshape(4, 2)
    pd.DataFrame({"image": "slide", "x": [0, 2, 4, 6], "y": [1, 3, 5, 7], "label": 0, "patient": "a"}).to_csv(
        tmp_path / "labels.csv", index=False, sep=";"
    )
    code, _, error = probe([*files, "--labels", tmp_path / "labels.csv"], capsys)
    assert code == 2
    assert "Two files are called slide" in error


def test_a_file_that_contradicts_the_table_is_refused(tmp_path, capsys):
    features, labels, _ = features_of(1.0)
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        file["features"], file["coords"] = features[:4], np.arange(8).reshape(4, 2)
        file["labels"] = 1 - labels[:4]
    pd.DataFrame({"image": "slide", "x": [0, 2, 4, 6], "y": [1, 3, 5, 7], "label": labels[:4], "patient": "a"}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    code, _, error = probe([tmp_path / "slide.h5", "--labels", tmp_path / "labels.csv"], capsys)
    assert code == 2
    assert "labels of 4 patches differ from" in error


def test_patches_without_features_are_counted(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    index = pd.read_csv("runs/tiny/preprocess/index.csv", dtype={"id": str, "patient": str})
    rows = index[(index["role"] != "test") | (index.index % 4 < 2)]
    features = np.random.default_rng(0).normal(size=(len(rows) + 1, 4))
    np.savez(tmp_path / "own.npz", features=features, ids=[*rows["id"], "of another run"])
    code, _, warnings = probe([tmp_path / "own.npz", "--run", "tiny.yaml"], capsys)
    assert code == 0
    assert "1 of 71 ids are not of tiny.yaml" in warnings
    assert "10 of 20 test patches have no features" in warnings


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_of_features_changes_nothing(scale):
    features, labels, patients = features_of(2.0)
    plain, scaled = (
        embedding_probes.probe(
            Embeddings(features.astype(float) * factor, None, labels, patients, None), (0,), BOOTSTRAP
        )
        for factor in (1.0, scale)
    )
    for name in ("linear", "neighbors"):
        assert plain[name]["roc_auc"]["value"] == pytest.approx(scaled[name]["roc_auc"]["value"], abs=1e-6)


def test_patients_of_one_class_each_are_divided_with_both_classes_in_every_fold():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        patients = np.repeat([f"p{number:02d}" for number in range(20)], 5)
        labels = np.repeat(rng.permutation([0] * 14 + [1] * 6), 5)
        features = rng.normal(size=(100, 3)) + labels[:, None]
        results = embedding_probes.probe(Embeddings(features, None, labels, patients, None), (0,), BOOTSTRAP)
        assert results["linear"]["roc_auc"]["value"] > 0.6
