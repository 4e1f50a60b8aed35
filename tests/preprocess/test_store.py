import contextlib
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from bcgan import experiment
from bcgan.errors import InputError
from bcgan.preprocess import store, tfds_records
from tests.conftest import PATCHES, PATIENTS, write_png


@pytest.fixture
def raw(tmp_path, idc_folder):
    return shutil.copytree(idc_folder, tmp_path / "raw")


def build(raw, tmp_path, *overrides):
    (tmp_path / "x.yaml").write_text(f"name: x\ndata: {{name: idc, dir: ['{raw}'], num_folds: 4}}\n")
    folder = tmp_path / "preprocess"
    folder.mkdir(exist_ok=True)
    store.build(experiment.load(str(tmp_path / "x.yaml"), overrides), folder)
    return folder


def first(raw, number=0):
    return sorted(raw.rglob("*.png"))[number]


def test_every_patch_is_stored_in_its_index_row(raw, tmp_path):
    built = store.load(build(raw, tmp_path))
    assert built.images.shape == (PATIENTS * PATCHES, 50, 50, 3)
    path = first(raw, 7)
    row = built.index.index[built.index["id"] == path.stem][0]
    from bcgan.slides.decode import decode_image as decode

    np.testing.assert_array_equal(built.images[row], decode(path.read_bytes(), ""))
    assert list(built.index.columns) == store.INDEX_COLUMNS


def test_faults_are_counted_listed_and_treated(raw, tmp_path):
    first(raw, 0).write_bytes(first(raw, 0).read_bytes()[:-30])
    first(raw, 1).write_text("no image")
    write_png(first(raw, 2), np.random.default_rng(0).integers(0, 256, (1, 50, 3), dtype=np.uint8))
    first(raw, 4).write_bytes(first(raw, 3).read_bytes())
    folder = build(raw, tmp_path)
    summary = json.loads((folder / "audit.json").read_text())
    counts = {name: fault["count"] for name, fault in summary["faults"].items() if fault["count"]}
    assert counts == {"unreadable": 2, "wrong_size": 1, "duplicate": 1}
    assert summary["kept"] == PATIENTS * PATCHES - 3
    listed = pd.read_csv(folder / "audit.csv", dtype=str)
    assert listed.set_index("id")["faults"].to_dict() == {
        first(raw, 0).stem: "unreadable",
        first(raw, 1).stem: "unreadable",
        first(raw, 2).stem: "wrong_size",
        first(raw, 4).stem: "duplicate",
    }
    assert "truncated" in listed["reason"][0]
    assert listed["copy_of"].fillna("").tolist() == ["", "", "", str(first(raw, 3))]
    built = store.load(folder)
    assert len(built.images) == len(built.index) == summary["kept"]
    narrow = built.images[built.index.index[built.index["height"] == 1][0]]
    assert (narrow[1:] == 255).all()


def test_a_file_that_disappears_during_the_run_is_listed(raw, tmp_path, monkeypatch):
    read_records = store.data.records

    def read_records_and_delete_a_file(settings, mixed):
        records = read_records(settings, mixed)
        first(raw).unlink()
        return records

    gone = first(raw)
    monkeypatch.setattr(store.data, "records", read_records_and_delete_a_file)
    folder = build(raw, tmp_path)
    listed = pd.read_csv(folder / "audit.csv", dtype=str)
    assert listed["id"].tolist() == [gone.stem]
    assert "No such file" in listed["reason"][0]
    assert len(store.load(folder).index) == PATIENTS * PATCHES - 1


def test_names_may_hold_any_bytes(tmp_path):
    """Such as line breaks and bytes that are no UTF-8, which a table on disk cannot contain."""
    for number, patient in enumerate((b"p\xff", b"p 2", b"p\n3", b"p4")):
        for label in (0, 1):
            for name in (b"a\xfe.png", b"a\n.png"):
                write_png(tmp_path / "raw" / os.fsdecode(b"%b/%d/%b" % (patient, label, name)),
                          np.full((50, 50, 3), 40 * number + 20 * label + name[1] % 7, np.uint8))  # fmt: skip
    (tmp_path / "x.yaml").write_text(
        f"name: x\ndata: {{name: patient_folder, dir: ['{tmp_path}/raw'], num_folds: 4}}\n"
    )
    (tmp_path / "out").mkdir()
    store.build(experiment.load(str(tmp_path / "x.yaml")), tmp_path / "out")
    index = store.load(tmp_path / "out").index
    assert sorted(set(index["patient"])) == ["p\n3", "p 2", "p4", "p\\xff"]
    assert len(index) == 16


def test_an_unreadable_file_can_stop_the_run(raw, tmp_path):
    first(raw).write_text("no image")
    with pytest.raises(InputError, match=r"class0\.png is unreadable.*audit\.unreadable=drop"):
        build(raw, tmp_path, "preprocess.audit.unreadable=fail")


def test_if_no_patch_is_left_the_fault_is_named(tmp_path):
    write_png(tmp_path / "glass/1/0/1_idx5_x1_y1_class0.png", np.full((50, 50, 3), 255, np.uint8))
    with pytest.raises(InputError, match=r"None of 1 patches can be used; .*class0\.png: blank\. Correct the files"):
        build(tmp_path / "glass", tmp_path, "preprocess.audit.blank=drop")


def test_an_empty_class_is_named(raw, tmp_path):
    for path in raw.rglob("*class1.png"):
        path.unlink()
    with pytest.raises(InputError, match="no malignant patch"):
        build(raw, tmp_path)


def test_stain_normalisation_counts_patients_without_two_stains(raw, tmp_path):
    for path in (raw / "100").rglob("*.png"):
        write_png(path, np.full((50, 50, 3), 250 - int(path.stem.split("_x")[1].split("_")[0]) // 50, np.uint8))
    folder = build(raw, tmp_path, "preprocess.stain_normalization=macenko")
    assert json.loads((folder / "audit.json").read_text())["stain"]["fallbacks"] == ["100"]


def test_patches_can_be_enlarged_to_256_pixels(raw, tmp_path):
    assert store.load(build(raw, tmp_path, "data.size=256")).images.shape[1:] == (256, 256, 3)


def test_patches_that_are_enlarged_are_counted(raw, tmp_path, caplog):
    """The public archive's patches have 50 pixels."""
    words = "are smaller than data.size=64 and were enlarged, the smallest from 50 pixels; set data.size to"
    for size, warned in ((50, False), (64, True)):
        caplog.clear()
        build(raw, tmp_path, f"data.size={size}")
        assert (words in caplog.text) == warned


def test_images_of_mixed_sizes_are_counted(tmp_path, caplog):
    """Each is resized to data.size: images whose shorter side differs from most get another scale."""
    rng = np.random.default_rng(0)

    def write(patient: int, label: int, height: int, width: int) -> None:
        image = rng.integers(0, 200, (height, width, 3), dtype=np.uint8)
        write_png(tmp_path / f"own/p{patient}/{label}/{height}x{width}.png", image)

    (tmp_path / "own.yaml").write_text("name: own\ndata: {name: patient_folder, dir: [own], num_folds: 3}\n")
    settings = ("data.size=50",)
    for patient in range(4):
        for label in (0, 1):
            write(patient, label, 60, 60)
            write(patient, label, 60, 90)  # the same shorter side, the same scale
    for extra, words in ((None, None), ((0, 1, 150, 200), "1 of 17 images do not have a shorter side of 60 pixels")):
        if extra:
            write(*extra)
        caplog.clear()
        folder = tmp_path / f"out{bool(extra)}"
        folder.mkdir()
        with contextlib.chdir(tmp_path):
            store.build(experiment.load(str(tmp_path / "own.yaml"), settings), folder)
        assert ("shorter side" in caplog.text) == bool(extra)
        if words:
            assert words in caplog.text and "150x200.png, 200x150" in caplog.text


def test_the_same_settings_give_the_same_files(raw, tmp_path):
    files = ("patches.npy", "index.csv", "split.json", "audit.csv")
    once = [(build(raw, tmp_path) / name).read_bytes() for name in files]
    assert once == [(build(raw, tmp_path) / name).read_bytes() for name in files]


def test_synthetic_patches_selected_all_or_too_few(tmp_path, caplog):
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 50, 50, 3), np.uint8)
    labels = np.arange(40, dtype=np.int32) % 2
    enough, few = np.arange(40) < 20, np.arange(40) < 9

    def load(keep, selected):
        np.savez(tmp_path / "synthetic.npz", images=images, labels=labels, scores=labels, accepted=keep)
        return store.load_synthetic(tmp_path, 50, selected)

    assert len(load(enough, False)[1]) == 40
    chosen, chosen_labels = load(enough, True)
    assert chosen[:, 0, 0, 0].tolist() == list(range(20))
    assert np.bincount(chosen_labels).tolist() == [10, 10]
    assert len(load(few, True)[1]) == 40


def test_if_no_file_can_be_read_the_first_reason_is_named(raw, tmp_path):
    for path in raw.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="None of 80 patches can be used; the first, .*png"):
        build(raw, tmp_path)


def test_patches_of_an_undeclared_size_are_refused_with_the_remedy(raw, tmp_path):
    """They would be cropped or padded: the settings declare 64 pixels for patches of 50."""
    words = "80 of 80 patches do not have 64x64 pixels, the first, .* has 50x50. Set data.size and data.mpp as --size"
    with pytest.raises(InputError, match=words):
        build(raw, tmp_path, "data.size=64", "data.mpp=2")
    assert store.load(build(raw, tmp_path, "data.mpp=2")).images.shape[1:] == (50, 50, 3)


def test_written_data_sets_open_with_tensorflow_datasets(raw, tmp_path, monkeypatch):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds_records, "SHARD_PATCHES", 16)
    folder = build(raw, tmp_path, "preprocess.write_tfds=true", "preprocess.clahe=true")
    built = store.load(folder)
    builder = tfds.builder_from_directory(folder / "tfds")
    assert builder.info.features["label"].names == ["benign", "malignant"]
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == built.index[
        "role"
    ].value_counts().to_dict()
    assert builder.info.splits["train"].num_shards == 3
    for file in (folder / "tfds").glob("*.tfrecord-*"):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            # The same bytes in every process, as the order of the fields is that of their names.
            assert tf.train.Example.FromString(record).SerializeToString(deterministic=True) == record
    for role in ("train", "test"):
        rows = built.role_indices(role)
        examples = {example["id"].decode(): example for example in tfds.as_numpy(builder.as_dataset(split=role))}
        assert set(examples) == set(built.index["id"].iloc[rows])
        for row in rows[:5]:
            entry = built.index.iloc[row]
            example = examples[entry["id"]]
            np.testing.assert_array_equal(example["image"], built.images[row])
            assert (example["label"], example["x"], example["y"]) == (entry["label"], entry["x"], entry["y"])
            assert (example["patient"].decode(), example["image_id"].decode()) == (entry["patient"], entry["image"])
