"""Links in archives are followed to the files of the archive, or listed as files that cannot be read."""

import io
import stat
import tarfile
import zipfile

import pytest

from bcgan.slides.files import find_images, iterate_images
from tests.slides.test_archives import write

FILES = {"d/p1/a.png": b"one", "d/p2/b.png": b"two!", "d/.store/c": b"three"}
LINKS = {  # of the archive's folder d, as in a folder on disk
    "d/p2/same.png": ("b.png", b"two!"),
    "d/p3.png": ("p1/a.png", b"one"),
    "d/p2/up.png": ("../p1/./a.png", b"one"),
    "d/p2/chain.png": ("../p3.png", b"one"),
    "d/p2/hidden.png": ("../.store/c", b"three"),
    "d/p2/through.png": ("../latest/a.png", b"one"),
    "d/latest": ("p1", None),  # its file is read in its own folder
    "d/here": (".", None),
    "d/p2/root": ("../..", None),
    "d/gone.png": ("p1/z.png", OSError),
    "d/outside.png": ("../../store/a.png", OSError),
    "d/P9": ("../../store/P9", OSError),  # a folder of images that were not packed
    "d/absolute.png": ("/d/p1/a.png", OSError),
    "d/circle.png": ("circle.png", OSError),
    "d/there.png": ("back.png", OSError),
    "d/back.png": ("there.png", OSError),
}


def tarred(hard: bool = False) -> bytes:
    """Pack the files and links; hard links, which name a member of the archive, where a link leads to a file."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, (target_name, content) in LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target_name
            if hard and isinstance(content, bytes):
                entry.type = tarfile.LNKTYPE
                entry.linkname = next(path for path, data in FILES.items() if data == content)
            archive.addfile(entry)
    return target.getvalue()


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        for name, (target_name, _) in LINKS.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, target_name)
    return target.getvalue()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["a.tar", "hard.tar", "a.zip"])
def test_links_are_followed_in_the_archive_and_broken_ones_cannot_be_read(tmp_path, name, strict):
    path = write(tmp_path / name, zipped() if name == "a.zip" else tarred(hard=name == "hard.tar"))
    images = {image.name: image for image in (iterate_images((path,)) if strict else find_images([str(path)]))}
    expected = {name: content for name, content in FILES.items() if "/." not in name}
    expected |= {name: content for name, (_, content) in LINKS.items() if content}
    assert set(images) == set(expected)
    for image_name, content in expected.items():
        image = images[image_name]
        if content is OSError:
            assert image.size == 0
            with pytest.raises(ValueError, match=rf"{name}!{image_name} is a link to .*, which is not in the archive"):
                image.read()
        else:
            assert (image.read(), image.size) == (content, len(content))


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_an_archive_of_a_folder_has_the_images_of_the_folder(tmp_path, name):
    """Half of them are links to files in the folder, as trees of symbolic links have them."""
    folder = tmp_path / "in"
    for number in range(4):
        write(folder / f"store/{number}.png", bytes([number]))
    (folder / "p1").mkdir()
    for number in range(4):
        (folder / f"p1/{number}.png").symlink_to(f"../store/{number}.png")
    expected = {image.name: image.read() for image in iterate_images((folder,))}
    if name == "a.tar":
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(folder, ".")
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in sorted(folder.rglob("*.png")):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                entry.create_system, entry.external_attr = 3, path.lstat().st_mode << 16
                archive.writestr(entry, str(path.readlink()) if path.is_symlink() else path.read_bytes())
    assert len(expected) == 8
    assert {image.name: image.read() for image in iterate_images((tmp_path / name,))} == expected


def test_a_file_that_was_packed_twice_is_read(tmp_path):
    """`tar -cf a.tar d d/p` packs the second time a hard link to the file's own name."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind, content in ((tarfile.REGTYPE, b"one"), (tarfile.LNKTYPE, b"")):
            entry = tarfile.TarInfo("d/a.png")
            entry.type, entry.size, entry.linkname = kind, len(content), "d/a.png" if kind == tarfile.LNKTYPE else ""
            archive.addfile(entry, io.BytesIO(content))
    assert [image.read() for image in find_images([str(tmp_path / "a.tar")])] == [b"one"]
