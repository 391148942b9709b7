"""Digests of requests: they tell a repeated request from another one, in idempotency keys and cursors.

Workers of two releases run at the same time during every rollout, and a digest outlives its process in the journal.
So it depends on what the caller asked and on nothing of this program: not on the order of keys, not on `repr`, and not
on fields that the caller left at their defaults, such as a field that only the newer release knows.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vector_memory.fields import Request

VERSION = "1:"
"""Prefix of every digest. A release that digests in another way uses another one."""


def request_digest(operation: str, arguments: Mapping[str, Any]) -> str:
    """Return the digest of an operation and its arguments, which are JSON values or requests.

    Arguments that are None count as not given.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    # ASCII escapes are valid for any text, also for one with lone surrogates, which UTF-8 cannot hold.
    text = json.dumps([operation, given], default=_fields_given, separators=(",", ":"), sort_keys=True)
    return VERSION + hashlib.sha256(text.encode()).hexdigest()


def is_versioned(digest: str) -> bool:
    """Return whether `request_digest` made this digest; earlier releases digested the `repr` of a request."""
    return digest.startswith(VERSION)


def _fields_given(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    assert isinstance(value, Request), "a request consists of JSON values and requests"
    return value.sent()
