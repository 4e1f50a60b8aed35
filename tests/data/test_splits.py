from pathlib import Path

import pandas as pd
import pytest

from bcgan.classes import CLASSES
from bcgan.data import splits
from bcgan.data.idc.scan import OFFICIAL_LISTS
from bcgan.errors import InputError
from bcgan.settings import Data


def make_index(patients: int = 12, each: int = 6, source: str = "s") -> pd.DataFrame:
    rows = [(f"p{p}", i % 2, source, f"/data/{source}!p{p}/{i}.png", "") for p in range(patients) for i in range(each)]
    return pd.DataFrame(rows, columns=["patient", "label", "source", "path", "official_split"])


def write_lists(folder, train, validation, test):
    for name, patients in {"train": train, "validation": validation, "test": test}.items():
        (folder / f"{name}.txt").write_text("\n".join(patients))
    return folder


def test_official_lists_are_84_29_49_patients():
    roles = pd.Series(splits.read_lists(OFFICIAL_LISTS))
    assert roles.value_counts().to_dict() == {"train": 84, "validation": 29, "test": 49}


@pytest.mark.parametrize("fold", range(4))
def test_kfold_keeps_patients_together_and_is_repeatable(fold):
    index, settings = make_index(), Data(name="idc", num_folds=4, test_fold=fold)
    roles = splits.assign_roles(index, settings, seed=1)
    assert roles.groupby(index["patient"]).nunique().max() == 1
    assert set(roles) == {"train", "validation", "test"}
    pd.testing.assert_series_equal(roles, splits.assign_roles(index, settings, seed=1))


def test_every_patient_is_tested_in_exactly_one_fold():
    index = make_index()
    tested = [
        set(index["patient"][splits.assign_roles(index, Data(name="idc", num_folds=4, test_fold=fold), 0) == "test"])
        for fold in range(4)
    ]
    assert sorted(patient for fold in tested for patient in fold) == sorted(index["patient"].unique())


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(InputError, match=r"data\.num_folds: 5.*there are 3"):
        splits.assign_roles(make_index(3), Data(name="idc", num_folds=5), 0)


def test_patients_on_no_list_are_unlisted_or_trained_on(tmp_path):
    lists = write_lists(tmp_path, ["p0", "p1"], ["p2"], ["p3"])
    index = make_index(6)
    official = splits.assign_roles(index, Data(name="idc", protocol="official", split_dir=lists), 0)
    assert official[index["patient"] == "p5"].unique().tolist() == ["unlisted"]
    extended = splits.assign_roles(index, Data(name="idc", protocol="extended", split_dir=lists), 0)
    assert extended[index["patient"] == "p5"].unique().tolist() == ["train"]


def test_a_patient_on_two_lists_is_named(tmp_path):
    lists = write_lists(tmp_path, ["p0", "p1"], ["p2"], ["p1"])
    with pytest.raises(InputError, match=r"test\.txt: patient p1 is in train\.txt too"):
        splits.read_lists(lists)
    (lists / "test.txt").unlink()
    with pytest.raises(InputError, match=r"test\.txt does not exist"):
        splits.read_lists(lists)


def test_held_out_patches_of_another_source_are_set_apart(tmp_path):
    lists = write_lists(tmp_path, ["p0"], ["p1"], ["p2"])
    index = pd.concat([make_index(3, source="sample.zip"), make_index(3, source="dense.zip")], ignore_index=True)
    settings = Data(name="idc", protocol="official", split_dir=lists, eval_sources="sample*")
    roles = splits.assign_roles(index, settings, 0)
    dense = index["source"] == "dense.zip"
    assert set(roles[dense]) == {"train", "validation_other", "test_other"}
    assert set(roles[~dense]) == {"train", "validation", "test"}
    with pytest.raises(InputError, match=r"eval_sources: other\* is in no path"):
        splits.assign_roles(index, settings.replace(eval_sources="other*"), 0)


def test_eval_sources_ignore_the_folder_of_the_data(tmp_path):
    lists = write_lists(tmp_path, ["p0"], ["p1"], ["p2"])
    index = pd.concat([make_index(3, source="sample.zip"), make_index(3, source="dense.zip")], ignore_index=True)
    index["path"] = "/samples" + index["path"]
    places = [Path("/samples/data/sample.zip"), Path("/samples/data/dense.zip")]
    settings = Data(name="idc", protocol="official", split_dir=lists, eval_sources="sample*", dir=places)
    roles = splits.assign_roles(index, settings, 0)
    assert set(roles[index["source"] == "dense.zip"]) == {"train", "validation_other", "test_other"}


def test_a_role_without_a_class_is_named():
    index = make_index()
    index["label"] = 0
    with pytest.raises(InputError, match="no malignant patch"):
        splits.assign_roles(index, Data(name="idc", num_folds=3), 0)


def test_a_patient_in_two_roles_is_named():
    index = make_index(3, 4)
    roles = splits.assign_roles(index, Data(name="idc", num_folds=3), 0)
    roles.iloc[0] = next(role for role in ("train", "test") if role != roles.iloc[0])
    with pytest.raises(InputError, match="Patient p0 has patches in two roles"):
        splits.check_roles(index, roles, CLASSES)


def test_the_split_file_names_every_patient():
    index = make_index()
    index["role"] = splits.assign_roles(index, Data(name="idc", num_folds=4), 0)
    written = splits.describe(index, Data(name="idc", num_folds=4), 0)
    assert set(written["patients"]) == set(index["patient"])
    assert sum(count["patches"] for count in written["counts"].values()) == len(index)
    assert len(written["sha256"]) == 64
