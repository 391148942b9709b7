"""What a tool shows of memories, within a number of tokens: whole ones while they fit, and the keys of the others."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.tokens import CHARS_PER_TOKEN_MAX, estimate_tokens
from vector_memory.errors import InvalidInput
from vector_memory.memories import Memory
from vector_memory.retrieval import Hit
from vector_memory.times import iso_time

TOKENS = 2_000
"""Of a result by default: a few passages. Larger ones flood a model's context, and some clients cut or refuse them."""

TOKENS_MIN, TOKENS_MAX = 200, 50_000

_SHARE_OF_KEYS = 10
"""A tenth of the tokens is for the keys of what does not fit."""

_AROUND = 40
"""Tokens of what stands around the memories."""


def memory_shown(memory: Memory) -> dict[str, Any]:
    """A memory for a model: nothing that is empty, no times that say the same."""
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
    """A retrieved memory for a model."""
    relevance = {} if hit.relevance is None else {"relevance": round(hit.relevance, 3)}
    return {**memory_shown(hit.memory), "score": round(hit.score, 4), **relevance}


def tokens_of(value: object) -> int:
    """The tokens of a value as JSON."""
    return estimate_tokens(json.dumps(value, ensure_ascii=False))


def fitted(memories: Sequence[Mapping[str, Any]], max_tokens: int) -> dict[str, Any]:
    """As many whole memories as fit, and the keys of the others in `more`. Of a first one that does not fit a part."""
    count = whole(memories, max_tokens)
    shown, rest = list(memories[:count]), memories[count:]
    if rest and not shown:
        shown, rest = [part(rest[0], _room(max_tokens))], rest[1:]
    truncated = bool(rest) or any("next_offset" in memory for memory in shown)
    return {"memories": shown, "truncated": truncated, **_more(rest, max_tokens // _SHARE_OF_KEYS)}


def whole(memories: Sequence[Mapping[str, Any]], max_tokens: int) -> int:
    """How many of the first memories fit as a whole."""
    room = _room(max_tokens)
    for count, memory in enumerate(memories):
        room -= tokens_of(memory)
        if room < 0:
            return count
    return len(memories)


def _room(max_tokens: int) -> int:
    """What the memories of an answer may have."""
    return max_tokens - max_tokens // _SHARE_OF_KEYS - _AROUND


def part(memory: Mapping[str, Any], max_tokens: int, offset: int = 0) -> dict[str, Any]:
    """A memory with as much of its content, from a character on, as fits; `next_offset` is where the rest begins.

    Metadata that take more than half of the room are left out, which `metadata_omitted` tells.

    Raises:
        InvalidInput: the content ends before the offset.
    """
    content: str = memory["content"]
    if offset >= len(content):
        raise InvalidInput(f"offset must be below {len(content)}, the length of the content.", field="offset")
    rest = content[offset:]
    shown: dict[str, Any] = {**memory, "content": "", "truncated": False}
    room = max_tokens - tokens_of({**shown, "next_offset": len(content)})
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
    """How many characters of a text fit, at least one: each adds to the estimate, so halving finds it."""
    low, high = 1, max(1, min(len(text), max_tokens * CHARS_PER_TOKEN_MAX))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens_of(text[:middle]) <= max_tokens else (low, middle - 1)
    return low


def _more(rest: Sequence[Mapping[str, Any]], max_tokens: int) -> dict[str, Any]:
    """The keys of what did not fit, as far as they fit; `more_omitted` counts the others."""
    keys: list[str] = []
    for memory in rest:
        max_tokens -= tokens_of(memory["key"]) + 1
        if max_tokens < 0:
            break
        keys.append(memory["key"])
    more: dict[str, Any] = {"more": keys} if rest else {}
    return {**more, "more_omitted": len(rest) - len(keys)} if len(keys) < len(rest) else more
