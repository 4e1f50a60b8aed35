"""Read members of zip and tar archives, compressed or not, and of archives inside them, without unpacking them.

A chain identifies an archive: the file on disk, then the members that are archives themselves. Archives that do not
allow random access (a compressed tar, an archive inside another) are copied to an anonymous temporary file.
"""

import bz2
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from bcgan.errors import InputError
from bcgan.slides.archive_links import follow_links, join_target, links_to_itself
from bcgan.slides.kinds import ARCHIVE_KINDS, HEAD, has_archive_suffix, is_hidden, plain_path, printable, sniff

MAX_FILE_BYTES = 256 * 2**20  # bytes; a larger member of an archive is refused as a decompression bomb
MAX_ARCHIVE_BYTES = 64 * 2**30  # bytes of an archive that is unpacked to a temporary file
MIN_FREE_BYTES = 2**30  # that a temporary file leaves free on its disk
MAX_DEPTH = 4  # of archives inside one another
COPY_CHUNK_BYTES = 2**20
MAX_LINK_BYTES = 4096  # of the target of a link
DOCUMENTS = ("[content_types].xml", "mimetype", "meta-inf/manifest.mf")  # members of office documents and programs
METHODS = {
    1: "Shrink", 6: "Implode", 9: "Deflate64", 10: "TERSE", 93: "Zstandard", 95: "XZ", 96: "JPEG", 97: "WavPack",
    98: "PPMd", 99: "WinZip AES",
}  # fmt: skip
UNSUPPORTED_ARCHIVES = ((b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!", "RAR"), (b"\x28\xb5\x2f\xfd", "Zstandard"))
READ_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)

Entry = zipfile.ZipInfo | tarfile.TarInfo
Chain = tuple[Path | str, ...]
_LOCK = threading.RLock()


class _Archive:
    """An open archive.

    Attributes:
        members: Entries of files by their plain path; for a link the entry of the file that it leads to.
        broken: Targets of links that lead to nothing in the archive, by the link's plain path.
    """

    members: dict[str, Entry]
    broken: dict[str, str]

    def check(self, name: str) -> None:
        """Raise ValueError if a member cannot be read. The message lacks its subject: callers put the path in front."""
        if name in self.broken:
            raise ValueError(
                f"is a link to {printable(self.broken[name])}, which is not in the archive; pack it again with the "
                "files that links lead to (tar -h, or zip without -y)"
            )


class _Zip(_Archive):
    """An open zip archive."""

    def __init__(self, file: BinaryIO):
        self.archive = zipfile.ZipFile(file)
        files = (entry for entry in self.archive.infolist() if not _is_folder(entry))
        entries = _by_path((_decode_name(entry), entry) for entry in files)
        targets = {path: self._read_target(path, entry) for path, entry in entries.items() if _is_link(entry)}
        self.members, self.broken = follow_links(entries, targets)

    def _read_target(self, path: str, entry: zipfile.ZipInfo) -> str:
        """Return the path in the archive that a link states; "/", which is outside of it, if it cannot be read."""
        try:
            with self.archive.open(entry) as file:
                target = file.read(MAX_LINK_BYTES).decode(errors="surrogateescape")
        except (*READ_ERRORS, NotImplementedError):
            target = "/"
        return join_target(path, target)

    def size(self, name: str) -> int:
        """Return the size of a member, bytes, unpacked, as the table of contents states it."""
        return self.members[name].file_size

    def check(self, name: str) -> None:
        """Raise ValueError, also if a member is encrypted or compressed by a method that Python does not read."""
        super().check(name)
        entry = self.members[name]
        if entry.compress_type in METHODS and entry.compress_type != 99:  # 99 is encrypted, which is reported below
            method = METHODS[entry.compress_type]
            raise ValueError(
                f"is compressed with {method}, which Python does not read; repack it as Deflate or unpack it"
            )
        if entry.flag_bits & 1:
            raise ValueError("is encrypted; unpack it with its password, or repack it without one")

    def open(self, name: str) -> BinaryIO:
        return self.archive.open(self.members[name])


class _Tar(_Archive):
    """An open tar archive that is not compressed; its members are read one at a time, the last one of a name."""

    def __init__(self, file: BinaryIO):
        self.archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115, closed with the cache's entry
        files = (entry for entry in self.archive.getmembers() if entry.isreg() or entry.islnk() or entry.issym())
        entries = _by_path((entry.name, entry) for entry in files if not links_to_itself(entry))
        targets = {
            path: plain_path(entry.linkname) if entry.islnk() else join_target(path, entry.linkname)
            for path, entry in entries.items()
            if not entry.isreg()
        }
        self.members, self.broken = follow_links(entries, targets)
        self.read_lock = threading.Lock()

    def size(self, name: str) -> int:
        return self.members[name].size

    def open(self, name: str) -> BinaryIO:
        """Open a member; several may be open and read in different threads."""
        with self.read_lock:
            source = self.archive.extractfile(self.members[name])
        return io.BufferedReader(_LockedReader(source, self.read_lock), COPY_CHUNK_BYTES)


class _LockedReader(io.RawIOBase):
    """A member of a tar archive that is read under a lock, as all members share one position in the file."""

    def __init__(self, source: BinaryIO, read_lock: threading.Lock):
        self.source, self.read_lock = source, read_lock

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.source.seek(offset, whence)

    def readinto(self, buffer) -> int:
        """Fill `buffer` with the next bytes of the member and return their number, 0 at its end."""
        with self.read_lock:
            content = self.source.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def is_archive(name: str, head: Callable[[], bytes], source: Callable[[], BinaryIO]) -> bool:
    """Return whether a file is an archive, by its suffix, else by its content.

    Office documents and programs are zip files but no archives, and a compressed file may contain something else than a
    tar archive.

    Args:
        name: The file's name.
        head: Returns the first HEAD bytes.
        source: Opens the file.
    """
    if has_archive_suffix(name):
        return True
    kind = sniff(head())
    if kind not in ARCHIVE_KINDS:
        return False
    try:
        with source() as file:
            if kind == "zip":
                with zipfile.ZipFile(file) as archive:
                    return not {member.lower() for member in archive.namelist()}.intersection(DOCUMENTS)
            return kind == "tar" or sniff(_open_decompressor(kind, file).read(HEAD)) == "tar"
    except READ_ERRORS:
        return False


def list_members(chain: Chain) -> list[tuple[str, int]]:
    """Return (path, size in bytes) of each file of an archive, sorted; the paths are relative and have no `..`.

    Links that lead to nothing in the archive are listed too, with no bytes; reading one says why it cannot be read.

    Raises:
        InputError: If the archive cannot be read; the message has the reason.
    """
    archive = _get_archive(chain)
    return sorted([*((name, archive.size(name)) for name in archive.members), *((name, 0) for name in archive.broken)])


def is_broken_link(chain: Chain, name: str) -> bool:
    """Return whether a member of an archive is a link that leads to nothing in it."""
    return name in _get_archive(chain).broken


def list_checksums(chain: Chain) -> dict[str, int]:
    """Return the CRC-32 of each file of a ZIP archive, by path, as the archive states it; {} for a tar archive."""
    archive = _get_archive(chain)
    return {name: entry.CRC for name, entry in archive.members.items()} if isinstance(archive, _Zip) else {}


def read_member(chain: Chain, name: str, limit: int | None = None) -> bytes:
    """Read a file of an archive.

    Args:
        limit: Number of bytes to read from the start. Defaults to `None`: all.

    Raises:
        ValueError: If it is larger than MAX_FILE_BYTES, encrypted, or compressed by a method that Python does not read.
        OSError: If it is damaged.
        InputError: If the archive cannot be read any more.
    """
    archive, path = _get_archive(chain), display_path((*chain, name))
    try:
        archive.check(name)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    if limit is None and archive.size(name) > MAX_FILE_BYTES:
        raise ValueError(
            f"{path} unpacks to {archive.size(name)} bytes, more than {MAX_FILE_BYTES}; unpack the archive and give "
            "the file itself"
        )
    try:
        with archive.open(name) as file:
            content = file.read(MAX_FILE_BYTES + 1 if limit is None else limit)
    except (*READ_ERRORS, NotImplementedError, KeyError) as error:
        raise OSError(f"{path} cannot be read from its archive ({_describe_error(error)})") from error
    if len(content) > MAX_FILE_BYTES:  # it is larger than the archive's table of contents claims
        raise ValueError(f"{path} unpacks to more than {MAX_FILE_BYTES} bytes")
    return content


def open_member(chain: Chain, name: str) -> BinaryIO:
    """Open a file of an archive.

    Raises:
        ValueError: If it is encrypted, or compressed by a method that Python does not read.
    """
    archive = _get_archive(chain)
    archive.check(name)
    return archive.open(name)


def display_path(chain: Chain) -> str:
    """Return `archive.zip!folder/b.zip!member.png` for display."""
    return "!".join(printable(str(part)) for part in chain)


def _by_path(entries: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    """Return an archive's entries by their plain path; the last one if a name occurs twice, as when unpacking.

    Raises:
        ValueError: If one of two images would be lost: names that are not the same have one path, such as a.png and
            ./a.png, or two files of a ZIP archive have one name. (A TAR archive is updated by adding a file again.)
    """
    members, names = {}, {}
    for name, entry in entries:
        path = plain_path(name)
        first = names.setdefault(path, name)
        if first != name:
            raise ValueError(
                f"is ambiguous: {printable(first)} and {printable(name)} are the same path, and only one of them would "
                "be read; rename one and pack it again"
            )
        if path in members and _have_other_content(members[path], entry) and not is_hidden(path):
            raise ValueError(
                f"is ambiguous: two different files have the name {printable(name)}, and only one of them would be "
                "read; rename one and pack it again"
            )
        members[path] = entry
    return members


def _have_other_content(first: Entry, second: Entry) -> bool:
    """Return whether two entries of a ZIP archive have another content; False for those of a TAR archive."""
    return isinstance(first, zipfile.ZipInfo) and (first.CRC, first.file_size) != (second.CRC, second.file_size)


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.endswith(("/", "\\"))


def _is_link(entry: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(entry.external_attr >> 16)


def _decode_name(entry: zipfile.ZipInfo) -> str:
    """Return an entry's name, decoded as UTF-8 if possible, as some programs do not set the flag for UTF-8."""
    if entry.flag_bits & 0x800:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return entry.filename


def _get_archive(chain: Chain) -> _Zip | _Tar:
    """Return the open archive of a chain, from the cache unless the file on disk changed."""
    path = Path(chain[0])
    try:
        modified = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"{display_path(chain)} cannot be read ({error}). Give an archive that can be.") from error
    with _LOCK:  # two threads would unpack the same archive twice
        return _open_archive(chain, modified)


@lru_cache(32)
def _open_archive(chain: Chain, modified: int) -> _Zip | _Tar:
    """Open an archive. The cache is small, as a process can have only a limited number of open files.

    Args:
        modified: Modification time of the file on disk, ns; only a key of the cache.
    """
    path, name, head = display_path(chain), str(chain[-1]), b""
    try:
        file = Path(chain[0]).open("rb") if len(chain) == 1 else _unpack_member(chain)  # noqa: SIM115, as is this one
        head = file.read(HEAD)
        file.seek(0)
        kind = sniff(head) or ("zip" if name.lower().endswith(".zip") else "tar")
        if kind == "zip":
            return _Zip(file)
        if kind in ("gzip", "bzip2", "xz"):
            file = _copy_to_temporary_file(_open_decompressor(kind, file), path)
        return _Tar(file)
    except (*READ_ERRORS, NotImplementedError, ValueError) as error:
        raise InputError(_describe_open_error(path, name, head, error)) from error


def _unpack_member(chain: Chain) -> BinaryIO:
    """Return an archive that is a member of another, as a temporary file."""
    outer, name = _get_archive(chain[:-1]), str(chain[-1])
    outer.check(name)
    with outer.open(name) as file:
        return _copy_to_temporary_file(file, display_path(chain))


def _copy_to_temporary_file(source: BinaryIO, path: str) -> BinaryIO:
    """Copy a stream to a temporary file, so that any position can be read fast.

    Args:
        source: Decompressed archive, read from its current position to the end.
        path: Of the archive, for errors.

    Returns:
        The copy, at its beginning. It is deleted when it is closed or the process ends.

    Raises:
        InputError: If the copy needs more than MAX_ARCHIVE_BYTES, or would leave less than MIN_FREE_BYTES on the disk.
    """
    target = tempfile.TemporaryFile()  # noqa: SIM115, closed with the cache's entry
    max_bytes = min(MAX_ARCHIVE_BYTES, shutil.disk_usage(tempfile.gettempdir()).free - MIN_FREE_BYTES)
    while content := source.read(COPY_CHUNK_BYTES):
        if target.tell() + len(content) > max_bytes:
            raise InputError(
                f"{path} unpacks to more than the {max(max_bytes, 0):,} bytes that {tempfile.gettempdir()} can take. "
                "Set TMPDIR to a folder with more space, or unpack the archive and give the folder."
            )
        target.write(content)
    target.seek(0)
    return target


def _open_decompressor(kind: str, file: BinaryIO) -> BinaryIO:
    return {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[kind](file)


def _describe_open_error(path: str, name: str, head: bytes, error: Exception) -> str:
    """Return a message with the reason why an archive cannot be opened and the remedy.

    Args:
        path: The archive's path for display.
        name: Its file name, whose suffix decides the type if `head` does not.
        head: Its first HEAD bytes; empty if it could not be read.
    """
    for signature, kind in UNSUPPORTED_ARCHIVES:
        if head.startswith(signature):
            return f"{path} is a {kind} archive, which is not read. Repack it as zip or tar, or unpack it."
    kind = sniff(head)
    if not head and not isinstance(error, OSError):
        return f"{path} is empty. Download it again or remove it."
    if kind and kind not in ARCHIVE_KINDS:
        return f"{path} is a {kind} file and no archive. Give the folder or archive that contains it."
    if kind in ("gzip", "bzip2", "xz") and isinstance(error, tarfile.ReadError) and "end of data" not in str(error):
        return f"{path} is compressed with {kind}, but contains no tar archive. Unpack it and give its content."
    if isinstance(error, ValueError) and str(error).startswith("is "):  # a predicate, such as "is encrypted"
        return f"{path} {error}."
    archive_type = "zip" if kind == "zip" or (kind is None and name.lower().endswith(".zip")) else "tar"
    reason = _describe_error(error)
    if kind == "zip" and isinstance(error, zipfile.BadZipFile) and "not a zip file" in str(error):
        reason = "it is truncated: the table of contents at its end is missing"
    return f"{path} is not a readable {archive_type} archive ({reason}). Download it again or remove it."


def _describe_error(error: Exception) -> str:
    if isinstance(error, EOFError) or "end of data" in str(error) or "end-of-stream" in str(error):
        return "it is truncated"
    return str(error) or type(error).__name__
