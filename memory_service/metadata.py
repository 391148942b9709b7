"""Checks the JSON objects that callers attach to memories, and serializes them as canonical text."""

import json
import math
from collections.abc import Mapping
from typing import Any

from vector_memory.errors import InvalidInput
from vector_memory.fields import check_text
from vector_memory.memories import METADATA_BYTES_MAX, Metadata

DEPTH_MAX = 16
"""Most levels of nesting. It is far above what labels and facts need, and far below Python's recursion limit."""

INTEGER_MAX = 2**63 - 1
"""Largest integer, positive or negative. Metadata and filters keep integers exactly in 64 bits."""


def canonical(metadata: Metadata | None) -> str:
    """Check metadata and serialize it as compact JSON with sorted keys. Equal metadata gives equal text.

    Raises:
        InvalidInput: the metadata is not a JSON object, is too large or too deep, or has a value that JSON lacks.
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
    """Merge changes into metadata key by key at the top level. A value replaces the old value. None removes its key.

    Args:
        held: the metadata as canonical JSON text.
        changes: the new values, checked already.

    Raises:
        InvalidInput: the merged metadata is too large.
    """
    kept = {name: value for name, value in json.loads(held).items() if name not in changes}
    return canonical({**kept, **{name: value for name, value in changes.items() if value is not None}})


def canonical_json(value: Any) -> str:
    """Serialize a value that `check` accepted as compact JSON with sorted keys."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


def check(value: Any, path: str, depth: int = 0) -> None:
    """Refuse a value that JSON cannot carry exactly.

    Raises:
        InvalidInput: it names the path of the value, the bound and the remedy.
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
