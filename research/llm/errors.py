"""Kinds of LLM errors that decide what `endpoints.py` does next. Callers meet them as the error above each.

    LLMUnreachable
    ├── LLMNotConnected       nothing was sent, so asking again costs nothing
    ├── LLMBusy               the endpoint is alive, and has no room for this request
    └── LLMStarting           no worker of the endpoint is up yet
    LLMReplyInvalid
    └── LLMRefused            the request itself is wrong, so any other endpoint would refuse it too

As in `vector_memory/errors.py`, a class's docstring is its message if none is given.
"""

from vector_memory.errors import LLMReplyInvalid, LLMUnreachable


class LLMNotConnected(LLMUnreachable):
    """No connection to the LLM endpoint could be made."""


class LLMBusy(LLMUnreachable):
    """The LLM endpoint is too busy to answer; try again later."""


class LLMStarting(LLMUnreachable):
    """The LLM endpoint is starting; try again later."""


class LLMRefused(LLMReplyInvalid):
    """The LLM endpoint refused the request."""
