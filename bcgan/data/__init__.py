"""Data sets and patient splits. `records` is the one way in; each data set has a folder of its own."""

from hashlib import sha256
from math import ceil

from bcgan.data.patients import check_spellings
from bcgan.data.records import Record
from bcgan.settings import Data

PREPARED = ("histology_phantom", "patch_camelyon")  # tensorflow-datasets makes or downloads them; they name no folders


def records(data: Data, mixed: bool = False) -> list[Record]:
    """Read every patch of an experiment's data set, before decoding.

    With `data.max_patches_per_class` or `data.subsample_fraction` a subset of each patient's patches of each class is
    drawn, always the same one: by the hash of their keys, because neighbouring names are neighbouring patches.

    Args:
        mixed: Whether images of several magnifications may come together, each with its own microns per pixel.

    Raises:
        InputError: The data set is not there or unusable, or two patients' names differ in spelling alone.
    """
    from bcgan.data import prepared
    from bcgan.data.breakhis import scan as breakhis
    from bcgan.data.idc import scan as idc
    from bcgan.data.patient_folder import scan as patient_folder

    readers = {
        "histology_phantom": prepared.phantom_records,
        "patch_camelyon": prepared.patch_camelyon_records,
        "idc": idc.records,
        "breakhis": lambda places: breakhis.records(places, data.magnification, mixed),
        "patient_folder": lambda places: patient_folder.records(places, data.classes, data.labels, data.mpp),
    }
    every = readers[data.name](data.dir)
    if data.similar_patients == "refuse" and data.name not in PREPARED:
        check_spellings({record.patient for record in every}, f"data.dir: {', '.join(map(str, data.dir))}")
    if data.max_patches_per_class is None and data.subsample_fraction is None:
        return every
    groups: dict[tuple[str, int], list[int]] = {}
    for number, record in enumerate(every):
        groups.setdefault((record.patient, record.label), []).append(number)
    drawn = []
    for numbers in groups.values():
        count = data.max_patches_per_class or ceil(round(data.subsample_fraction * len(numbers), 6))
        drawn += sorted(numbers, key=lambda number: sha256(every[number].key.encode()).digest())[:count]
    return [every[number] for number in sorted(drawn)]


def native_size(data: Data) -> int | None:
    """Side that a whole patch of this data set has, pixels; None where images of any size are cut to a square."""
    return {"histology_phantom": 50, "idc": 50, "patch_camelyon": 96}.get(data.name)


def microns_per_pixel(data: Data) -> float | None:
    """Return the microns per pixel of this data set's images before they are brought to `data.size`; None: unknown."""
    from bcgan.data.breakhis.scan import MICRONS_AT_40
    from bcgan.data.idc.scan import MICRONS
    from bcgan.data.prepared import CAMELYON_MPP

    if data.name == "breakhis":
        return MICRONS_AT_40 * 40 / data.magnification if data.magnification else None
    return {"histology_phantom": MICRONS, "idc": MICRONS, "patch_camelyon": CAMELYON_MPP}.get(data.name, data.mpp)


def side(data: Data) -> int:
    """Side of a patch in the pixels that its place in the slide is given in."""
    return native_size(data) or data.size
