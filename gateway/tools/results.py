"""How a tool shows memories within a number of tokens: whole memories while they fit, and the keys of the others."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.tokens import CHARS_PER_TOKEN_MAX, estimate_tokens
from vector_memory.errors import InvalidInput
from vector_memory.memories import Memory
from vector_memory.retrieval import Hit
from vector_memory.times import iso_time

TOKENS = 2_000
"""Default bound on a result: a few passages. Larger results fill a model's context, and some clients cut or refuse
them."""

TOKENS_MIN, TOKENS_MAX = 200, 50_000
"""The range in which a caller may choose the bound."""

_SHARE_OF_KEYS = 10
"""One part in this many of the tokens is reserved for the keys of the memories that do not fit."""

_AROUND = 40
"""Tokens reserved for the fields of a result around its memories."""


def memory_shown(memory: Memory) -> dict[str, Any]:
    """Return a memory as a model sees it, without empty fields and without equal times."""
    shown: dict[str, Any] = {"key": memory.key, "content": memory.content}
    if memory.metadata:
        shown["metadata"] = memory.metadata
    shown["created_at"] = iso_time(memory.created_at_ms)
    if memory.updated_at_ms != memory.created_at_ms:
        shown["updated_at"] = iso_time(memory.updated_at_ms)
    if memory.expires_at_ms is not None:
        shown["expires_at"] = iso_time(memory.expires_at_ms)
    return shown


def hit_shown(hit: Hit) -> dict[str, Any]:
    """Return a retrieved memory as a model sees it, with its rounded score and relevance."""
    relevance = {} if hit.relevance is None else {"relevance": round(hit.relevance, 3)}
    return {**memory_shown(hit.memory), "score": round(hit.score, 4), **relevance}


def tokens_of(value: object) -> int:
    """Estimate the tokens of a value that is written as JSON."""
    return estimate_tokens(json.dumps(value, ensure_ascii=False))


def fitted(memories: Sequence[Mapping[str, Any]], max_tokens: int) -> dict[str, Any]:
    """Return as many whole memories as fit, and the keys of the others in `more`.

    If not even the first memory fits, a part of it is returned. Fields: `memories`, `truncated`, and if they are needed
    `more` and `more_omitted`.
    """
    count = whole(memories, max_tokens)
    shown, rest = list(memories[:count]), memories[count:]
    if rest and not shown:
        shown, rest = [part(rest[0], _room(max_tokens))], rest[1:]
    truncated = bool(rest) or any("next_offset" in memory for memory in shown)
    return {"memories": shown, "truncated": truncated, **_more(rest, max_tokens // _SHARE_OF_KEYS)}


def whole(memories: Sequence[Mapping[str, Any]], max_tokens: int) -> int:
    """Return how many memories from the beginning of the sequence fit as a whole."""
    room = _room(max_tokens)
    for count, memory in enumerate(memories):
        room -= tokens_of(memory)
        if room < 0:
            return count
    return len(memories)


def _room(max_tokens: int) -> int:
    """Return the tokens that remain for whole memories, after the reserves for keys and surrounding fields."""
    return max_tokens - max_tokens // _SHARE_OF_KEYS - _AROUND


def part(memory: Mapping[str, Any], max_tokens: int, offset: int = 0) -> dict[str, Any]:
    """Return a memory with as much of its content as fits. `next_offset` is the character at which the rest begins.

    Metadata that take more than half of the room are left out, and then `metadata_omitted` is true.

    Args:
        memory: the memory as a model sees it.
        max_tokens: the upper bound on the result's tokens.
        offset: the character at which the returned content begins.

    Raises:
        InvalidInput: the content ends before the offset.
    """
    content: str = memory["content"]
    if offset >= len(content):
        raise InvalidInput(f"offset must be below {len(content)}, the length of the content.", field="offset")
    rest = content[offset:]
    shown: dict[str, Any] = {**memory, "content": "", "truncated": False}
    room = max_tokens - tokens_of({**shown, "next_offset": len(content)})
    # `room` is what the metadata leave. If it is less than the metadata take, they take more than half.
    if "metadata" in memory and room < tokens_of(memory["metadata"]):
        del shown["metadata"]
        shown["metadata_omitted"] = True
        room = max_tokens - tokens_of({**shown, "next_offset": len(content)})
    fits = _prefix(rest, room)
    shown["content"] = rest[:fits]
    if fits < len(rest):
        shown |= {"truncated": True, "next_offset": offset + fits}
    return shown


def _prefix(text: str, max_tokens: int) -> int:
    """Return how many characters of a text fit, but at least one, so that reading in parts always advances."""
    # Each character adds to the estimate, so a binary search finds the longest prefix that fits.
    low, high = 1, max(1, min(len(text), max_tokens * CHARS_PER_TOKEN_MAX))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens_of(text[:middle]) <= max_tokens else (low, middle - 1)
    return low


def _more(rest: Sequence[Mapping[str, Any]], max_tokens: int) -> dict[str, Any]:
    """Return the keys of the memories that did not fit. If not all keys fit, `more_omitted` counts the others."""
    keys: list[str] = []
    for memory in rest:
        max_tokens -= tokens_of(memory["key"]) + 1
        if max_tokens < 0:
            break
        keys.append(memory["key"])
    more: dict[str, Any] = {"more": keys} if rest else {}
    return {**more, "more_omitted": len(rest) - len(keys)} if len(keys) < len(rest) else more
