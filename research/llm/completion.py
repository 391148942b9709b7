"""Reads the body of a 200 answer of an LLM endpoint, which need not be a completion.

A queue in front of the model answers 200 with the status of its job, a proxy with a page, others with an error
object; the SDK takes all of these for completions. So the body is read here, as plain JSON, and judged.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, TypedDict

from vector_memory.errors import LLMRefused, LLMReplyInvalid, LLMTimeout, LLMUnreachable, ServiceError

_EXCERPT_CHARS_MAX = 200

# Shorter keys are placeholders such as "none", and blotting these out would garble the sentence.
_SECRET_CHARS_MIN = 8

# The whole numbers that a double holds exactly. What is beyond them counts nothing, and no price could be put on it.
_TOKENS_MAX = 2**53


@dataclass(frozen=True, slots=True)
class Completion:
    """An LLM's answer.

    Attributes:
        text: not blank, and valid Unicode.
        model: as the endpoint names it.
        tokens_used: prompt and answer as the endpoint counted them; 0 when it reports none.
        finish_reason: `stop`, or `length` when max_tokens or the model's window cut it off; None when the endpoint
            gives none.
        prompt_tokens: of these, those of the prompt; 0 when it reports none.
        completion_tokens: of these, those of the answer; 0 when it reports none.
    """

    text: str
    model: str
    tokens_used: int
    finish_reason: str | None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def read(body: str, *, model: str, secret: str) -> Completion:
    """Read a completion.

    Args:
        body: the text of a 200 answer.
        model: its name where the answer does not give one.
        secret: the API key, which no error message may repeat.

    Raises:
        LLMReplyInvalid: it is no completion, or one without text.
        LLMRefused: max_tokens were spent before the first word.
        LLMUnreachable: it says that the model is still starting.
        LLMTimeout: it says that the job ran out of time.
    """
    reply = decode(body)
    match reply:
        case {"choices": [{"message": {"content": str(content)}, **choice}, *_], **rest} if content.strip():
            usage = rest.get("usage")
            return Completion(
                text=whole_text(content),
                model=word(rest.get("model")) or model,
                finish_reason=word(choice.get("finish_reason")),
                **counts(usage),
            )
        case _:
            raise rejection(reply, body, secret)


def raw(body: str, *, secret: str) -> dict[str, Any]:
    """A completion as its server wrote it, with or without text: the choices are for the caller to read.

    Raises:
        ServiceError: as `read`, for a body without choices.
    """
    reply = decode(body)
    match reply:
        case {"choices": [_, *_] as choices} if all(isinstance(choice, dict) for choice in choices):
            assert isinstance(reply, dict), "matched"
            return reply
        case _:
            raise rejection(None if isinstance(reply, dict) and reply.get("choices") else reply, body, secret)


def decode(body: str) -> object:
    """The JSON value of a body; None when it is not JSON."""
    try:
        # What is no JSON either, and could not be passed on; RFC 8259 has neither NaN nor Infinity, however written.
        return json.loads(body, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _finite(written: str) -> float | None:
    number = float(written)
    return number if math.isfinite(number) else None


def excerpt(body: str, secret: str) -> str:
    """The endpoint's own words in a short form that is fit for callers: no key, no traceback, one line."""
    said = _message(decode(body)).partition("Traceback")[0]
    if len(secret) >= _SECRET_CHARS_MIN:
        said = said.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return line if len(line) <= _EXCERPT_CHARS_MAX else line[: _EXCERPT_CHARS_MAX - 1] + "…"


def rejection(reply: object, body: str, secret: str) -> ServiceError:
    """What a body that is no completion with text says instead, as an error."""
    match reply:
        case {"choices": [{"message": {"tool_calls": [_, *_]}}, *_]}:
            return LLMReplyInvalid("The LLM asked to call a tool instead of answering; none was offered to it")
        case {"choices": [{"finish_reason": "length"}, *_]}:
            return LLMRefused("The LLM reached max_tokens before it wrote any text; raise max_tokens")
        case {"choices": [_, *_]}:
            return LLMReplyInvalid("The LLM's answer has no text")
        case {"status": "IN_QUEUE" | "IN_PROGRESS"}:
            return LLMUnreachable("The LLM endpoint is still starting: the request waits in its queue; try again later")
        case {"status": "TIMED_OUT"}:
            return LLMTimeout("The LLM endpoint says that its job ran out of time")
        case {"status": "FAILED" | "CANCELLED" as status}:
            return LLMReplyInvalid(f"The LLM endpoint says that its job ended as {status}; its own log tells why")
        case {"error": _} | {"object": "error"}:
            said = excerpt(body, secret)
            return LLMReplyInvalid(f"The LLM endpoint answered with an error: {said or 'it gives no reason'}")
        case _:
            return LLMReplyInvalid(
                "The LLM endpoint answered with something that is not a completion; "
                "check that LLM_BASE_URL ends where its OpenAI routes begin, often /v1"
            )


def _message(reply: object) -> str:
    """The human part of an error body; servers disagree where it is."""
    match reply:
        case {"error": {"message": str(said)} | str(said)} | {"message": str(said)} | {"detail": str(said)}:
            return said
        case _:
            return ""


def word(value: object) -> str | None:
    """A name or reason where the server gave one."""
    return value if isinstance(value, str) and value else None


def whole_text(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Counts(TypedDict):
    """Tokens as the endpoint counted them; 0 where it told none."""

    tokens_used: int
    prompt_tokens: int
    completion_tokens: int


def counts(usage: object) -> Counts:
    """What a usage tells. Some servers leave the total out."""
    prompt, completion = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
    used = _tokens(usage, "total_tokens") or prompt + completion
    return Counts(tokens_used=used, prompt_tokens=prompt, completion_tokens=completion)


def _tokens(usage: object, name: str) -> int:
    """A count of the usage; 0 where there is none."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 < count <= _TOKENS_MAX else 0
