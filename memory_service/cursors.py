"""Cursors of a listing: opaque to callers, bound to the namespace and filter they were given for."""

import base64
import binascii
import json

from vector_memory.errors import InvalidInput

_SCOPE_CHARS = 16


def encode_cursor(created_at_ms: int, key: str, scope: str) -> str:
    """A cursor behind the memory with this creation time and key. URL-safe."""
    fields = json.dumps([created_at_ms, key, scope[:_SCOPE_CHARS]])
    return base64.urlsafe_b64encode(fields.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, scope: str) -> tuple[int, str]:
    """The (created_at_ms, key) that a cursor stands behind.

    Raises:
        InvalidInput: it is no cursor of ours, or one of another listing.
    """
    try:
        fields = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        created_at_ms, key, held_scope = fields
        if not (type(created_at_ms) is int and type(key) is str and abs(created_at_ms) < 2**63):
            raise ValueError("wrong types")
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidInput("cursor is none that a listing returned; start without it.", field="cursor") from error
    if held_scope != scope[:_SCOPE_CHARS]:
        raise InvalidInput("cursor belongs to a listing of another namespace or filter.", field="cursor")
    return created_at_ms, key
