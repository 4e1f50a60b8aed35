"""Data sets and patient splits. `records` reads any data set; each data set has its own subpackage."""

from hashlib import sha256
from math import ceil
from typing import TYPE_CHECKING

from bcgan.data.patients import check_patient, check_spellings
from bcgan.data.records import Record
from bcgan.settings import Data

if TYPE_CHECKING:
    import pandas as pd

PREPARED = ("histology_phantom", "patch_camelyon")  # tensorflow-datasets makes or downloads them; they name no folders


def records(data: Data, mixed: bool = False) -> list[Record]:
    """Return a record of every patch of an experiment's data set; images are not decoded.

    With `data.max_patches_per_class` or `data.subsample_fraction`, a subset of each patient's patches of each class is
    selected. The selection is always the same: by the hash of the keys, as patches with similar names are neighbors.

    Args:
        mixed: Whether images of several magnifications are allowed, each with its own microns per pixel.

    Raises:
        InputError: If the data set is missing or unusable, or a name is that of no patient or differs from another one
            only in spelling.
    """
    from bcgan.data import prepared
    from bcgan.data.breakhis import scan as breakhis
    from bcgan.data.idc import scan as idc
    from bcgan.data.patient_folder import scan as patient_folder
    from bcgan.data.slide_names import check_places

    readers = {
        "histology_phantom": lambda paths: prepared.phantom_records(
            paths, data.size, microns_per_pixel(data), data.classes
        ),
        "patch_camelyon": prepared.patch_camelyon_records,
        "idc": lambda paths: idc.records(paths, microns_per_pixel(data)),
        "breakhis": lambda paths: breakhis.records(paths, data.magnification, mixed, data.classes),
        "patient_folder": lambda paths: patient_folder.records(paths, data.classes, data.labels, data.mpp),
    }
    all_records = readers[data.name](data.dir)
    if data.name not in PREPARED:
        for patient, path in {record.patient: record.path for record in reversed(all_records)}.items():
            check_patient(patient, f"{path}: the patient")
    if data.labels and data.tile is None:  # images that are cut have places of their own
        check_places(all_records, data)
    if data.similar_patients == "refuse" and data.name not in PREPARED:
        check_spellings({record.patient for record in all_records}, f"data.dir: {', '.join(map(str, data.dir))}")
    if data.max_patches_per_class is None and data.subsample_fraction is None:
        return all_records
    groups: dict[tuple[str, int], list[int]] = {}
    for index, record in enumerate(all_records):
        groups.setdefault((record.patient, record.label), []).append(index)
    selected = []
    for indices in groups.values():
        count = data.max_patches_per_class or ceil(round(data.subsample_fraction * len(indices), 6))
        selected += sorted(indices, key=lambda index: sha256(all_records[index].key.encode()).digest())[:count]
    return [all_records[index] for index in sorted(selected)]


def native_patch_px(data: Data) -> int | None:
    """Return the side of a complete patch of a data set, pixels; `None` if it has images of any size."""
    if data.tile or (data.name == "idc" and data.mpp):  # cut by `bcgan tile` at another size or scale
        return data.size
    return {"histology_phantom": data.size, "idc": 50, "patch_camelyon": 96}.get(data.name)


def microns_per_pixel(data: Data) -> float | None:
    """Return the microns per pixel of a data set's images before they are resized, or of the patches cut from them.

    `None` if they are unknown.
    """
    if data.tile and data.tile.mpp:
        return data.tile.mpp
    from bcgan.data.breakhis.scan import MICRONS_AT_40
    from bcgan.data.idc.scan import MICRONS
    from bcgan.data.prepared import CAMELYON_MPP

    if data.name == "breakhis":
        return MICRONS_AT_40 * 40 / data.magnification if data.magnification else None
    if data.name in ("histology_phantom", "idc"):
        return data.mpp or MICRONS
    return {"patch_camelyon": CAMELYON_MPP}.get(data.name, data.mpp)


def coordinate_patch_px(data: Data, index: "pd.DataFrame") -> int:
    """Return the side of a patch in the pixels that its coordinates are given in: those of the image files.

    Args:
        index: Columns width and height of the images, pixels; that of a run's store.
    """
    return native_patch_px(data) or usual_side(index)


def usual_side(index: "pd.DataFrame") -> int:
    """Return the shorter side that most images have, pixels, by their columns width and height."""
    return int(index[["width", "height"]].min(axis=1).mode()[0])
