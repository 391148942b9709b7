"""Cursors of a listing: opaque to callers, and bound to the namespace and filter of the listing that returned them."""

import base64
import binascii
import json

from memory_service.digests import is_versioned
from vector_memory.errors import InvalidInput

_SCOPE_CHARS = 18
"""Characters of a scope that a cursor keeps: 64 bits of the digest after its version, enough to notice a mix-up."""


def encode_cursor(created_at_ms: int, key: str, scope: str) -> str:
    """Return a URL-safe cursor for the page after the memory with this creation time and key."""
    fields = json.dumps([created_at_ms, key, scope[:_SCOPE_CHARS]])
    return base64.urlsafe_b64encode(fields.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, scope: str) -> tuple[int, str]:
    """Return the (created_at_ms, key) of the last memory before the page.

    Raises:
        InvalidInput: no listing returned this cursor, or another listing did.
    """
    try:
        fields = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        created_at_ms, key, held_scope = fields
        # `type` instead of isinstance, because True is an int. SQLite holds 64 bits.
        if not (type(created_at_ms) is int and type(key) is str and abs(created_at_ms) < 2**63):
            raise ValueError("wrong types")
        if not is_versioned(held_scope):
            raise ValueError("an earlier release returned it")
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise InvalidInput("cursor is not valid. Omit it to start from the first page.", field="cursor") from error
    if held_scope != scope[:_SCOPE_CHARS]:
        raise InvalidInput(
            "cursor belongs to a listing of another namespace or filter. Omit it to start from the first page.",
            field="cursor",
        )
    return created_at_ms, key
