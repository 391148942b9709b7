"""Digests of requests: they tell a repeated request from another one, in idempotency keys and cursors."""

import hashlib
from collections.abc import Mapping
from typing import Any


def request_digest(operation: str, request: Mapping[str, Any]) -> str:
    """Return a digest of an operation and its arguments."""
    return hashlib.sha256(repr([operation, request]).encode("utf-8", "surrogatepass")).hexdigest()
