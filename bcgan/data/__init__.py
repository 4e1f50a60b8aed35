"""Data sets and patient splits. `records` is the one way in; each data set has a folder of its own."""

from hashlib import sha256
from math import ceil

from bcgan.data.records import Record
from bcgan.experiment import Data


def records(data: Data) -> list[Record]:
    """Every patch of an experiment's data set, before decoding, or as many of each patient and class as `data.limit`
    says: always the same ones, drawn by their keys' hashes, since neighbouring names are neighbouring patches."""
    from bcgan.data import prepared
    from bcgan.data.breakhis import scan as breakhis
    from bcgan.data.idc import scan as idc
    from bcgan.data.patient_folder import scan as patient_folder

    readers = {
        "histology_phantom": prepared.phantom_records,
        "patch_camelyon": prepared.patch_camelyon_records,
        "idc": idc.records,
        "breakhis": lambda places: breakhis.records(places, data.magnification),
        "patient_folder": patient_folder.records,
    }
    found = readers[data.name](data.dir)
    if data.limit is None:
        return found
    groups: dict[tuple[str, int], list[int]] = {}
    for number, record in enumerate(found):
        groups.setdefault((record.patient, record.label), []).append(number)
    kept = []
    for numbers in groups.values():
        count = int(data.limit) if data.limit >= 1 else ceil(round(data.limit * len(numbers), 6))
        kept += sorted(numbers, key=lambda number: sha256(found[number].key.encode()).digest())[:count]
    return [found[number] for number in sorted(kept)]


def native_size(data: Data) -> int | None:
    """Side that a whole patch of this data set has, pixels; None where images of any size are cut to a square."""
    return {"histology_phantom": 50, "idc": 50, "patch_camelyon": 96}.get(data.name)


def side(data: Data) -> int:
    """Side of a patch in the pixels that its place in the slide is given in."""
    return native_size(data) or data.size
