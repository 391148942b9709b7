"""Records, the unit of truth: one mutation with its stamp, and its form in bytes.

A record's payload is a msgpack map with short, fixed field names. The journal's format version covers them:

    put     {op: "put", at: [ms, counter], ns, key, content, meta, vectors, created, expires}
    delete  {op: "delete", at: [ms, counter], ns, key}
    reply   {op: "reply", at: [ms, counter], ns, key, request, result}

`meta` is JSON text, so what a caller stored comes back byte for byte. `vectors` are little-endian float32. The stamp's
writer is the journal's own name, which stands once, in the header.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack
import numpy as np

from memory_service.clock import Stamp
from memory_service.embedding.embedder import Fingerprint, Vectors

FORMAT = 1
"""Version of the journal: frames, field names and their meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A memory as it is from now on.

    Attributes:
        metadata: canonical JSON text of an object.
        vectors: (windows, dim) float32, unit rows.
    """

    namespace: str
    key: str
    content: str
    metadata: str
    vectors: Vectors
    created_at_ms: int
    expires_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Removal:
    """The end of a memory.

    Attributes:
        expired_at_ms: when the memory expired; None if it was deleted. Such a record comes from a snapshot and is never
            written to a journal, where the put itself says when it expires.
    """

    namespace: str
    key: str
    expired_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RememberedReply:
    """The answer to a request with an idempotency key, so that its repetition gets the same answer.

    Attributes:
        digest: of the request; the same key with another digest is a conflict.
        result: the outcome as msgpack values.
    """

    namespace: str
    idempotency_key: str
    digest: str
    result: Any


Mutation: TypeAlias = Put | Removal | RememberedReply


@dataclass(frozen=True, slots=True)
class Record:
    """One mutation and when it happened."""

    stamp: Stamp
    mutation: Mutation


@dataclass(frozen=True, slots=True)
class Header:
    """The first frame of every journal: who writes it, and which model makes its vectors."""

    writer: str
    embedder: Fingerprint


def encode_header(header: Header) -> bytes:
    """Return the payload of a journal's first frame."""
    return _pack({"op": "journal", "format": FORMAT, "writer": header.writer, "embedder": header.embedder.as_dict()})


def decode_header(payload: bytes) -> Header:
    """Read a journal's first frame.

    Raises:
        ValueError: the payload is not a header, or its format is unknown to this version.
    """
    fields = msgpack.unpackb(payload)
    if fields.get("op") != "journal":
        raise ValueError("the first frame is not a journal header")
    if fields["format"] != FORMAT:
        raise ValueError(f"journal format {fields['format']} is not {FORMAT}, the one this version reads")
    return Header(fields["writer"], Fingerprint(**fields["embedder"]))


def encode(record: Record) -> bytes:
    """Return the payload of a record's frame."""
    at = [record.stamp.ms, record.stamp.counter]
    match record.mutation:
        case Put() as put:
            text = {"op": "put", "at": at, "ns": put.namespace, "key": put.key, "content": put.content}
            times = {"created": put.created_at_ms, "expires": put.expires_at_ms}
            return _pack({**text, "meta": put.metadata, "vectors": put.vectors.astype("<f4").tobytes(), **times})
        case Removal(namespace, key):
            return _pack({"op": "delete", "at": at, "ns": namespace, "key": key})
        case RememberedReply(namespace, key, digest, result):
            reply = {"op": "reply", "at": at, "ns": namespace, "key": key, "request": digest, "result": result}
            return _pack(reply)


def decode(payload: bytes, header: Header) -> Record:
    """Read a record of the journal that has this header.

    Raises:
        ValueError: the operation is unknown, or the vectors do not have the embedder's dimension.
    """
    fields = msgpack.unpackb(payload)
    ms, counter = fields["at"]
    return Record(Stamp(ms, counter, header.writer), _mutation(fields, header.embedder.dim))


def _mutation(fields: dict[str, Any], dim: int) -> Mutation:
    match fields["op"]:
        case "put":
            return Put(
                namespace=fields["ns"],
                key=fields["key"],
                content=fields["content"],
                metadata=fields["meta"],
                # A view of the payload, without a copy; (windows, dim).
                vectors=np.frombuffer(fields["vectors"], dtype="<f4").reshape(-1, dim),
                created_at_ms=fields["created"],
                expires_at_ms=fields["expires"],
            )
        case "delete":
            return Removal(fields["ns"], fields["key"])
        case "reply":
            return RememberedReply(fields["ns"], fields["key"], fields["request"], fields["result"])
        case unknown:
            raise ValueError(f"unknown operation {unknown!r}")


def _pack(fields: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed
