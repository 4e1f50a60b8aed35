"""Any folder or zip archive laid out `<patient>/<class>/<name>.png|jpg|tif`, class 0, 1, benign or malignant."""

from pathlib import Path

from bcgan.data.records import UNKNOWN, Record, image_files, label_of
from bcgan.errors import InputError


def records(places: tuple[Path, ...]) -> list[Record]:
    """Every image; its key is its path below the place.

    Raises:
        InputError: a class folder of another name, a file that lies too high, or no image at all.
    """
    found: dict[str, Record] = {}
    for file in image_files(places):
        parts = file.name.split("/")
        if len(parts) < 3:
            raise InputError(f"{file.path}: not in <patient>/<class>/. Move it there or take it out of data.dir.")
        label = label_of(parts[-2], file.path)
        key = next(one for one in (file.name, f"{file.source}/{file.name}", file.path) if one not in found)
        found[key] = Record(key, file.path, file.source, parts[-3], label, UNKNOWN, UNKNOWN, "", file.read)
    if not found:
        raise InputError(
            f"data.dir: {', '.join(map(str, places))} holds no image. "
            "Lay them out as <patient>/<class>/<name>.png, class 0 or 1."
        )
    return [found[key] for key in sorted(found)]
