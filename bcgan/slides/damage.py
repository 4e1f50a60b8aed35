"""Find coded images of which a part is missing or zeros, as after an incomplete download; decoders do not report it."""

import re
import struct
from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # ends with the marker's number; these others have no length
START_OF_SCAN, HUFFMAN_CODES, WITHOUT_LENGTH = 0xDA, 0xC4, (0x01, 0xD8, 0xD9)
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames that are cosines and have Huffman codes
# The usual Huffman codes of brightness: zeros are codes of edges, so that no picture has many of them in a row. With
# other codes zeros can be a flat picture, of at least 2 bits for 64 pixels.
USUAL_CODES = bytes.fromhex("00020103030204030505040400 00017d 010203")
JPEG_2000_BOX, JPEG_2000_SIZE, TILE_PART = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x90"
END = b"\xff\xd9"  # of a JPEG, and of the codes of a JPEG 2000 image
WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
ZEROS = 64  # bytes in a row that are taken for a lost part
ZEROED = "a part of it is zeros"
FLAT_JPEG, FLAT = 64, 1000  # pixels of a flat picture that may be a byte of zeros


def find_damage(data: bytes, pixels: int) -> str | None:
    """Return what is missing of a JPEG, JPEG 2000, WebP or PNG image; `None` if nothing is, or it is another image.

    Bytes after its end do not count.

    Args:
        data: The file, or a strip, tile or frame of a container.
        pixels: Of the image, width times height.
    """
    if data[:2] == b"\xff\xd8":
        return _find_jpeg_damage(data, pixels)
    if data[:8] == PNG_MAGIC:
        return None if _is_complete_png(data) else "its end is missing"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _find_webp_damage(data, pixels)
    if data[:8] == JPEG_2000_BOX or data[:4] == JPEG_2000_SIZE:
        return _find_jpeg_2000_damage(data, pixels)
    return None


def _find_jpeg_damage(data: bytes, pixels: int) -> str | None:
    """Return what is missing of a JPEG; see `find_damage`."""
    position, frame, components, codes = 2, 0, b"", b""
    while match := JPEG_MARKER.search(data, position):
        marker, position = match[0][-1], match.end()
        if marker == START_OF_SCAN:
            break
        length = 0 if marker in WITHOUT_LENGTH else int.from_bytes(data[position : position + 2], "big")
        if marker == HUFFMAN_CODES:
            codes += data[position : position + length]
        elif marker in (*SEQUENTIAL, PROGRESSIVE):
            frame, components = marker, data[position + 7 : position + 8]
        position += length
    else:
        return None  # tables alone, or nothing that can be decoded
    end = data.rfind(END, position)
    if end < 0 or not frame:  # other frames can be all zeros
        return "its end is missing" if end < 0 else None
    # In a scan of all components the codes of brightness are among any two bytes.
    is_usual = frame in SEQUENTIAL and components == data[position + 2 : position + 3] and USUAL_CODES in codes
    zeros = data.find(bytes(ZEROS if is_usual else ZEROS + pixels // FLAT_JPEG), position, end)
    # Other images may follow, after padding.
    return ZEROED if zeros >= 0 and data.rfind(END, position, zeros) < 0 else None


def _find_jpeg_2000_damage(data: bytes, pixels: int) -> str | None:
    """Return what is missing of a JPEG 2000 image, with its boxes or without; see `find_damage`."""
    begin = position = data.find(JPEG_2000_SIZE) + 2
    while 2 <= position < len(data) - 1 and data[position : position + 2] != END:
        if data[position : position + 2] == TILE_PART:  # it states the length of all that belongs to it
            length = int.from_bytes(data[position + 6 : position + 10], "big")
            position = position + max(length, 12) if length else data.find(END, position)
        elif data[position] == 0xFF:
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
        else:
            return "a part of it is missing"
    if not 2 <= position < len(data) - 1:
        return "its end is missing"
    return ZEROED if data.find(bytes(ZEROS + pixels // FLAT), begin, position) >= 0 else None


def _find_webp_damage(data: bytes, pixels: int) -> str | None:
    """Return what is missing of a WebP image, of whose chunks only the pixels are searched; see `find_damage`."""
    offset, zeros = 12, bytes(ZEROS + pixels // FLAT)
    while offset + 8 <= len(data):
        kind, size = struct.unpack("<4sI", data[offset : offset + 8])
        if kind in WEBP_PIXELS and data.find(zeros, offset + 8, offset + 8 + size) >= 0:
            return ZEROED
        offset += 8 + size + size % 2
    return None


def _is_complete_png(data: bytes) -> bool:
    """Return whether all chunks of a PNG lie inside the file, including the last one."""
    return any(kind == b"IEND" for kind, _ in png_chunks(data))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the type and the content of each chunk of a PNG that lies inside the file."""
    offset, view = 8, memoryview(data)  # after the signature; a chunk has its length (4 bytes), type (4), checksum (4)
    while offset + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[offset : offset + 8])
        if offset + 12 + length > len(data):
            return
        yield kind, view[offset + 8 : offset + 8 + length]
        offset += 12 + length
