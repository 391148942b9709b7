"""Frames: how a journal's payloads lie in its file.

    frame = magic (4 bytes) | payload length (u32) | CRC-32 of length and payload (u32) | payload      little-endian

The magic lets a reader search for valid frames behind a bad one. If there are none, the bad frame is a torn tail, which
a crash leaves and which was never acknowledged. If there is one, the file is damaged, and that is always reported.
"""

import struct
import zlib
from collections.abc import Iterator

MAGIC = b"\xabVM1"
_PREFIX = struct.Struct("<4sII")
_LENGTH = struct.Struct("<I")

PREFIX_BYTES = _PREFIX.size
"""Bytes of a frame before its payload."""

PAYLOAD_BYTES_MAX = 64 << 20
"""A larger length makes a bad frame. No record comes near it, since content and metadata are bounded."""


def frame(payload: bytes) -> bytes:
    """Return a payload with its magic, length and checksum."""
    length = _LENGTH.pack(len(payload))
    return _PREFIX.pack(MAGIC, len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


def frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the payloads of the valid frames from the start of `data`, each with the offset behind its frame."""
    offset = 0
    while (payload := payload_at(data, offset)) is not None:
        offset += _PREFIX.size + len(payload)
        yield payload, offset


def next_frame(data: bytes, offset: int) -> tuple[int, bytes] | None:
    """Return where the first valid frame at or behind an offset begins, and its payload."""
    while offset >= 0:
        payload = payload_at(data, offset)
        if payload is not None:
            return offset, payload
        # The magic may also occur inside a payload; then the checksum fails, and the search goes on.
        offset = data.find(MAGIC, offset + 1)
    return None


def payload_at(data: bytes, offset: int) -> bytes | None:
    """Return the payload of the frame at an offset; None if there is no valid frame."""
    if offset + _PREFIX.size > len(data):
        return None
    magic, length, checksum = _PREFIX.unpack_from(data, offset)
    if magic != MAGIC or length > PAYLOAD_BYTES_MAX:
        return None
    start = offset + _PREFIX.size
    payload = data[start : start + length]
    if len(payload) < length or zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length))) != checksum:
        return None
    return payload
