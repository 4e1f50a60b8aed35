"""Assign patients to the training, validation and test set; all patches of a patient have the same role."""

import fnmatch
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan.data.idc.scan import OFFICIAL_LISTS
from bcgan.data.patients import check_spellings, normalize_patient, normalize_text
from bcgan.errors import InputError
from bcgan.settings import Data
from bcgan.slides.tables import read_text

LIST_ROLES = ("train", "validation", "test")
MAX_LISTED = 10  # patients that a message lists
log = logging.getLogger("bcgan")


def unlisted_patients(index: pd.DataFrame) -> set[str]:
    """Return the patients whom no list names; columns patient and role."""
    return set(index["patient"][index["role"].str.startswith("unlisted")])


def read_lists(folder: Path) -> dict[str, str]:
    """Read the role of each patient from train.txt, validation.txt and test.txt, one patient a line.

    Byte order marks, line ends of any system, quotes and commas of spreadsheets, and lines that begin with "# " are
    ignored.

    Returns:
        "train", "validation" or "test", by patient.

    Raises:
        InputError: If a list is missing or no text, or a patient is on two of them.
    """
    role_of: dict[str, str] = {}
    for role in LIST_ROLES:
        path = folder / f"{role}.txt"
        if not path.is_file():
            raise InputError(f"{path} does not exist. A folder of patient lists needs train, validation and test.txt.")
        for line in re.split(r"[\r\n]+", read_text(path)):
            patient = normalize_text(re.sub(r"[\s,;]+$", "", line)).strip("\"'")
            if not (patient := normalize_patient(patient)) or re.match(r"#(\s|$)", patient):
                continue
            if role_of.setdefault(patient, role) != role:
                raise InputError(
                    f"{path}: patient {patient} is in {role_of[patient]}.txt too. Remove it from one of the two."
                )
    return role_of


def assign_roles(index: pd.DataFrame, data: Data, seed: int) -> pd.Series:
    """Assign a role to every patch, according to `data.protocol`.

    `official`: by the patient lists; other patients are `unlisted`. `extended`: other patients are in the training set.
    `kfold`: patients are divided into `data.num_folds` folds of similar class balance; fold `data.test_fold` is the
    test set, the next one the validation set.
    If `data.eval_sources` matches a folder or archive in some paths, from `data.dir` on, held-out patches from other
    sources get the role `<role>_other`: a source that is complete for only one class would distort the metrics.

    Args:
        index: Columns patient (str), label, source, path, official_split (role by the authors, or "").

    Raises:
        InputError: If there are fewer patients than folds, or a role lacks a class.
    """
    if data.protocol == "kfold":
        roles = _kfold_roles(index, data, seed)
    elif (index["official_split"] != "").all():
        roles = index["official_split"].copy()
    else:
        role_of = read_lists(data.split_dir or OFFICIAL_LISTS)
        if data.similar_patients == "refuse":
            check_spellings({*role_of, *index["patient"]}, f"{data.split_dir or OFFICIAL_LISTS} and the data")
        _log_absent(absent_patients(index, data), data)
        unlisted_role = "train" if data.protocol == "extended" else "unlisted"
        roles = index["patient"].map(role_of).fillna(unlisted_role)
    if data.eval_sources:
        roles = _mark_other_sources(roles, index, data)
    check_roles(index, roles, data.class_names)
    return roles


def _mark_other_sources(roles: pd.Series, index: pd.DataFrame, data: Data) -> pd.Series:
    """Return the roles with `_other` appended for held-out patches that are not from `data.eval_sources`.

    Raises:
        InputError: If no path matches, and there are several sources.
    """
    num_outer = min((len(path.parts) for path in data.dir), default=1) - 1  # folders that data.dir itself lies in
    is_eval_source = index["path"].map(
        lambda path: bool(fnmatch.filter(re.split("[/!]", path)[num_outer:], data.eval_sources))
    )
    sources = index["source"].unique()
    if not is_eval_source.any() and len(sources) > 1:
        raise InputError(
            f"data.eval_sources: {data.eval_sources} is in no path of the sources {', '.join(sources)}. "
            "Name one of them, or set data.eval_sources=null to score on all."
        )
    if is_eval_source.any():
        roles = roles.mask(~is_eval_source & (roles != "train"), roles + "_other")
    return roles


def absent_patients(index: pd.DataFrame, data: Data) -> list[str]:
    """Return the patients of the lists who have no patch in the data; none if no lists are used."""
    if data.protocol == "kfold" or (index["official_split"] != "").all():
        return []
    return sorted(read_lists(data.split_dir or OFFICIAL_LISTS).keys() - set(index["patient"]))


def _log_absent(absent: list[str], data: Data) -> None:
    """Log the patients of the lists who have no image."""
    if absent:
        names = ", ".join(absent[:MAX_LISTED]) + (", ..." if len(absent) > MAX_LISTED else "")
        # Expected with the bundled lists: a sample of the public archive lacks some of their patients.
        level = logging.WARNING if data.split_dir else logging.INFO
        log.log(level, "%d patients of the lists have no image in the data: %s", len(absent), names)


def check_roles(index: pd.DataFrame, roles: pd.Series, class_names: tuple[str, ...]) -> None:
    """Check that training, validation and test have every class, and that no patient has two roles.

    Args:
        index: A row for each patch, with the columns patient and label.
        roles: The role of each patch.
        class_names: In the order of their labels.

    Raises:
        InputError: If they do not.
    """
    for role in LIST_ROLES:
        for label, name in enumerate(class_names):
            count = int(((roles == role) & (index["label"] == label)).sum())
            if count == 0:
                raise InputError(
                    f"The {role} patients have no {name} patch (class {label}) of {len(index)} patches in all. "
                    "Check data.dir's class folders, data.protocol, data.classes and data.eval_sources."
                )
    by_patient = roles.str.removesuffix("_other").groupby(index["patient"]).nunique()
    divided = by_patient.index[by_patient > 1]
    if len(divided):
        raise InputError(f"Patient {divided[0]} has patches in two roles. Give every patient one role.")


def describe(index: pd.DataFrame, data: Data, seed: int) -> dict[str, Any]:
    """Return the split as it is written to split.json.

    Args:
        index: Columns patient, role, label and official_split; a row for each patch.

    Returns:
        policy, seed: The protocol, and the seed of its folds.
        counts: By role, the numbers of patients, patches, positives (label above 0), and by_class.
        patients, sha256: {patient: role}, and its hash, by which splits are compared.
        absent: Patients of the lists who have no patch.
    """
    by_patient = index.assign(role=index["role"].str.removesuffix("_other")).groupby("patient")["role"].first()
    patients = {str(patient): role for patient, role in by_patient.sort_index().items()}
    counts = {
        role: {
            "patients": int(group["patient"].nunique()),
            "patches": len(group),
            "positives": int((group["label"] > 0).sum()),
            "by_class": {name: int((group["label"] == label).sum()) for label, name in enumerate(data.class_names)},
        }
        for role, group in index.groupby("role")
    }
    digest = hashlib.sha256(json.dumps(patients, sort_keys=True).encode()).hexdigest()
    policy = data.protocol if data.protocol != "kfold" else f"kfold, fold {data.test_fold} of {data.num_folds}"
    return {
        "policy": policy, "seed": seed, "counts": counts, "sha256": digest, "patients": patients,
        "absent": absent_patients(index, data),
    }  # fmt: skip


def _kfold_roles(index: pd.DataFrame, data: Data, seed: int) -> pd.Series:
    """Return the roles of the protocol `kfold`; arguments, result and errors are those of `assign_roles`."""
    from sklearn.model_selection import StratifiedGroupKFold

    patients = index["patient"].nunique()
    if patients < data.num_folds:
        raise InputError(
            f"data.num_folds: {data.num_folds} folds need as many patients, and there are {patients}. "
            + ("Lower it." if patients >= 3 else "Add patients: training, validation and test take one each.")
        )
    splitter = StratifiedGroupKFold(data.num_folds, shuffle=True, random_state=seed)
    fold_of = np.empty(len(index), int)
    for fold, (_, rows) in enumerate(splitter.split(index, index["label"], index["patient"])):
        fold_of[rows] = fold
    roles = np.full(len(index), "train", dtype=object)
    roles[fold_of == data.test_fold] = "test"
    roles[fold_of == (data.test_fold + 1) % data.num_folds] = "validation"
    return pd.Series(roles, index.index)
