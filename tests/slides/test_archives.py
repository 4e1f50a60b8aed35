"""Archives of every kind give the same members, or are refused with the reason."""

import bz2
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bcgan.errors import InputError
from bcgan.slides import archives
from bcgan.slides.files import find_images, iterate_images
from bcgan.slides.kinds import plain_path

FILES = {
    f"p{patient}/{label}/é{patient}.png": bytes([patient, label]) * 500 for patient in range(6) for label in (0, 1)
}


def zipped(files: dict[str, bytes], separator: str = "/", **options) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("/", separator), content)
    return target.getvalue()


def without_flag(data: bytes) -> bytes:
    """Clear the flag that marks names as UTF-8, which Info-ZIP and macOS do not set."""
    data = bytearray(data)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.find(signature)
        while place >= 0:
            data[place + offset + 1] &= ~0x08
            place = data.find(signature, place + 4)
    return bytes(data)


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


ARCHIVES = {
    "plain.zip": zipped(FILES),
    "backslash.zip": zipped(FILES, "\\"),
    "noflag.zip": without_flag(zipped(FILES)),
    "plain.tar": tarred(FILES),
    "packed.tar.gz": tarred(FILES, "w:gz"),
    "packed.tgz": tarred(FILES, "w:gz"),
    "packed.tar.bz2": tarred(FILES, "w:bz2"),
    "packed.tar.xz": tarred(FILES, "w:xz"),
    "wrong-suffix.zip": tarred(FILES, "w:gz"),
    "no-suffix": zipped(FILES),
    "other-suffix.download": tarred(FILES, "w:xz"),
    "dotted.zip": zipped({f"./{name}": content for name, content in FILES.items()}),
    "absolute.zip": zipped({f"/{name}": content for name, content in FILES.items()}),
    "drive.zip": zipped({f"C:\\{name}": content for name, content in FILES.items()}, "\\"),
}


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def content_of(path: Path) -> dict[str, bytes]:
    return {image.name: image.read() for image in iterate_images((path,))}


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_kind_of_archive_gives_the_same_files(tmp_path, name):
    path = write(tmp_path / name, ARCHIVES[name])
    assert content_of(path) == FILES
    assert {image.source for image in iterate_images((path,))} == {name}
    assert {image.local for image in iterate_images((path,))} == {None}
    assert content_of(tmp_path) == FILES  # found in its folder, with any suffix
    assert next(iter(iterate_images((path,)))).path == f"{path}!p0/0/é0.png"


def test_archives_inside_archives_are_read_to_a_depth_of_four(tmp_path, caplog):
    inner = zipped({"m.png": b"deep"})
    two = tarred({"in/b.zip": inner, "x.png": b"two"}, "w:gz")
    path = write(tmp_path / "a.zip", zipped({"c.tar.gz": two, "top.png": b"one"}))
    images = {image.path: image.read() for image in iterate_images((path,))}
    assert images == {f"{path}!top.png": b"one", f"{path}!c.tar.gz!x.png": b"two",
                      f"{path}!c.tar.gz!in/b.zip!m.png": b"deep"}  # fmt: skip
    nested = inner
    for _ in range(4):
        nested = zipped({"n.zip": nested})
    write(path, nested)
    with caplog.at_level("WARNING", "bcgan"):
        assert list(iterate_images((path,))) == []
    assert "lies inside 4 archives" in caplog.text


def test_members_are_read_in_any_order_by_several_threads_and_by_another_process(tmp_path):
    for name in ("plain.zip", "packed.tar.gz", "plain.tar"):
        images = list(iterate_images((write(tmp_path / name, ARCHIVES[name]),)))[::-1] * 20
        with ThreadPoolExecutor(8) as pool:
            contents = list(pool.map(lambda image: image.read(), images))
        assert contents == [FILES[image.name] for image in images]
        assert pickle.loads(pickle.dumps(images[0])).read() == FILES[images[0].name]


def test_a_compressed_tar_is_unpacked_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar.gz", ARCHIVES["packed.tar.gz"])
    copies, copy = [], archives._copy_to_temporary_file
    monkeypatch.setattr(archives, "_copy_to_temporary_file", lambda *arguments: copies.append(1) or copy(*arguments))
    assert content_of(path) == FILES
    assert content_of(path) == FILES
    assert len(copies) == 1


def twice(pack, name: str, first: bytes, second: bytes) -> bytes:
    """Pack two members of one name; a name of the same length is replaced afterwards."""
    other = name.replace("x", "y")
    return pack({name: first, other: second}).replace(other.encode(), name.encode())


@pytest.mark.parametrize("second", [b"new", b"longer"])
def test_two_images_of_one_name_in_a_zip_are_refused(tmp_path, second):
    """No archiver writes them: one would be lost."""
    path = write(tmp_path / "a.zip", twice(zipped, "a/x.png", b"old", second))
    words = (
        r"a\.zip is ambiguous: two different files have the name a/x\.png, and only one of them would be read; rename"
    )
    with pytest.raises(InputError, match=words):
        content_of(path)
    (image,) = find_images([str(tmp_path)])
    with pytest.raises(ValueError, match=words):
        image.read()


@pytest.mark.parametrize("name", ["a/x.png", ".x"])
def test_copies_of_one_name_in_a_zip_are_one_file(tmp_path, name):
    """And hidden files, which are no images, may differ."""
    data = twice(zipped, name, b"old", b"new" if name.startswith(".") else b"old")
    path = write(tmp_path / "a.zip", data)
    assert content_of(path) == ({} if name.startswith(".") else {name: b"old"})


def test_of_members_of_one_name_in_a_tar_the_last_counts(tmp_path):
    """As when it is unpacked: a file that is added again replaces the earlier one."""
    path = write(tmp_path / "a.tar", tarred({"a/x.png": b"old"}))
    with tarfile.open(path, "a") as archive:
        entry = tarfile.TarInfo("a/x.png")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"newer"))
    assert content_of(path) == {"a/x.png": b"newer"}


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("other", ["./a/x.png", "/a/x.png", "a\\x.png", "C:/a/x.png", "a//x.png"])
def test_names_that_are_one_path_are_refused(tmp_path, pack, other):
    """One of two images would be lost."""
    path = write(tmp_path / "packed", pack({"a/x.png": b"one", "b.png": b"more", other: b"other"}))
    with pytest.raises(InputError) as error:
        content_of(path)
    assert str(error.value) == (
        f"{path} is ambiguous: a/x.png and {other} are the same path, and only one of them would be read; rename one "
        "and pack it again."
    )
    (image,) = find_images([str(tmp_path)])
    with pytest.raises(ValueError, match="is ambiguous"):
        image.read()


def altered(data: bytes, field: int, value: int) -> bytes:
    """Set a 16-bit field of every entry: 0 the flags, 2 the compression method."""
    data = bytearray(data)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.find(signature)
        while place >= 0:
            data[place + offset + field : place + offset + field + 2] = struct.pack("<H", value)
            place = data.find(signature, place + 4)
    return bytes(data)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (2, 9, "is compressed with Deflate64, which Python does not read; repack it as Deflate or unpack it"),
        (2, 98, "is compressed with PPMd"),
        (0, 1, "is encrypted; unpack it with its password"),
    ],
)
def test_members_that_cannot_be_unpacked_are_refused_with_the_reason(tmp_path, field, value, reason):
    path = write(tmp_path / "a.zip", altered(zipped({"x.png": b"x" * 100}), field, value))
    (image,) = iterate_images((path,))
    with pytest.raises(ValueError, match=rf"a\.zip!x\.png {reason}"):
        image.read()


@pytest.mark.parametrize("name", ["plain.zip", "packed.tar.gz", "packed.tar.bz2", "packed.tar.xz", "plain.tar"])
def test_a_truncated_archive_is_refused_with_the_reason(tmp_path, name):
    data = ARCHIVES[name]
    path = write(tmp_path / name, data[: len(data) // 2 - 300 if name == "plain.tar" else len(data) // 2])
    for search in (lambda: list(iterate_images((path,))), lambda: find_images([str(path)])):
        with pytest.raises(InputError, match=rf"{name} is not a readable (zip|tar) archive \(it is truncated"):
            search()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", b"no archive", "is not a readable zip archive"),
        ("a.zip", b"", "is empty"),
        ("a.tar.gz", b"", "is empty"),
        ("a.tgz", bz2.compress(b"no archive" * 99), "is compressed with bzip2, but contains no tar archive"),
        ("a.tar.xz", lzma.compress(b"no archive" * 99), "is compressed with xz, but contains no tar archive"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c\0\4", "is a 7z archive, which is not read. Repack it as zip or tar"),
        ("a.rar", b"Rar!\x1a\7\1\0", "is a RAR archive"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "is a png file and no archive"),
    ],
)
def test_a_file_that_is_no_archive_is_refused_by_its_kind(tmp_path, name, data, reason):
    with pytest.raises(InputError, match=rf"{name} {reason}"):
        list(iterate_images((write(tmp_path / name, data),)))


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    for name, pack in (("a.zip", zipped), ("a.tar", tarred)):
        (image,) = iterate_images((write(tmp_path / name, pack({"x.png": bytes(5000)})),))
        with pytest.raises(ValueError, match="unpacks to 5000 bytes, more than 1000"):
            image.read()
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 5000)
    for name, data in (("b.tar.gz", tarred({"x.png": bytes(9000)}, "w:gz")),
                       ("c.zip", zipped({"x.tar": tarred({"x.png": bytes(9000)})}))):  # fmt: skip
        with pytest.raises(InputError, match=r"unpacks to more than the 5,000 bytes that .* can take\. Set TMPDIR"):
            list(iterate_images((write(tmp_path / name, data),)))


def test_a_member_larger_than_its_stated_size_is_an_error(tmp_path):
    data = bytearray(zipped({"x.png": bytes(5000)}))
    place = data.find(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<I", 100)
    (image,) = iterate_images((write(tmp_path / "a.zip", bytes(data)),))
    assert image.size == 100
    with pytest.raises(OSError, match="cannot be read from its archive"):
        image.read()


def test_an_archive_that_was_replaced_is_read_anew(tmp_path):
    path = write(tmp_path / "a.zip", zipped({"x.png": b"old"}))
    assert content_of(path) == {"x.png": b"old"}
    write(path, zipped({"y.png": b"newer"}))
    assert content_of(path) == {"y.png": b"newer"}


@pytest.mark.parametrize(
    ("name", "plain"),
    [("a/b.png", "a/b.png"), ("..\\a\\.\\b.png", "a/b.png"), ("C:\\a", "a"), ("/a//b", "a/b"), ("a.b", "a.b")],
)
def test_plain_paths(name, plain):
    assert plain_path(name) == plain
