"""Metadata: JSON objects that callers attach to memories, checked and brought into one canonical text."""

import json
import math
from collections.abc import Mapping
from typing import Any

from vector_memory.errors import InvalidInput
from vector_memory.fields import check_text
from vector_memory.memories import METADATA_BYTES_MAX, Metadata

DEPTH_MAX = 16
INTEGER_MAX = 2**63 - 1
"""Integers are kept exactly in 64 bits, here and in filters."""


def canonical(metadata: Metadata | None) -> str:
    """The metadata as compact JSON with sorted keys: equal metadata give equal text.

    Raises:
        InvalidInput: not a JSON object, too large, too deep, or with a value that JSON cannot carry.
    """
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise InvalidInput("metadata must be a JSON object.", field="metadata")
    check(metadata, "metadata")
    text = canonical_json(metadata)
    if len(text.encode()) > METADATA_BYTES_MAX:
        raise InvalidInput(
            f"metadata is over {METADATA_BYTES_MAX} bytes of JSON; put long text into content.", field="metadata"
        )
    return text


def merged(held: str, changes: Metadata) -> str:
    """Metadata changed key by key at the top level: a value replaces the one that is there, null removes it.

    Args:
        held: canonical JSON text.
        changes: checked already.

    Raises:
        InvalidInput: it would become too large.
    """
    kept = {name: value for name, value in json.loads(held).items() if name not in changes}
    return canonical({**kept, **{name: value for name, value in changes.items() if value is not None}})


def canonical_json(value: Any) -> str:
    """Compact JSON with sorted keys, for a value that `check` accepted."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


def check(value: Any, path: str, depth: int = 0) -> None:
    """Refuse what JSON cannot carry exactly.

    Raises:
        InvalidInput: naming the path of the value, the bound and the remedy.
    """
    if depth > DEPTH_MAX:
        raise InvalidInput(f"{path} is nested deeper than {DEPTH_MAX} levels.", field=path)
    match value:
        case None | bool():
            pass
        case int():
            if abs(value) > INTEGER_MAX:
                raise InvalidInput(f"{path} does not fit 64 bits; send it as a string.", field=path)
        case float():
            if not math.isfinite(value):
                raise InvalidInput(f"{path} is not a finite number; send null or a string.", field=path)
        case str():
            check_text(value, path)
        case list() | tuple():
            for at, element in enumerate(value):
                check(element, f"{path}[{at}]", depth + 1)
        case Mapping():
            for key, element in value.items():
                if not isinstance(key, str):
                    raise InvalidInput(f"{path} has a key that is not a string.", field=path)
                check_text(key, path)
                check(element, f"{path}.{key}", depth + 1)
        case _:
            raise InvalidInput(f"{path} is of type {type(value).__name__}, which JSON does not have.", field=path)
