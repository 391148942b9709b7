"""Reads the body of a 200 answer of an LLM endpoint, which may be something other than a completion.

A queue in front of the model answers 200 with the status of its job, a proxy with a page, and others with an error
object. The SDK takes all of these for completions. So this module reads the body as plain JSON, and checks it.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, TypedDict

from research.llm.errors import LLMRefused
from vector_memory.errors import LLMReplyInvalid, LLMTimeout, LLMUnreachable, ServiceError

_EXCERPT_CHARS_MAX = 200

# Shorter keys are placeholders such as "none". Masking those would garble the sentence.
_SECRET_CHARS_MIN = 8

# The largest whole number up to which a double is exact. A larger count of tokens is wrong.
_TOKENS_MAX = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An LLM's answer. The endpoint counts the tokens, and a count that it does not report is 0.

    Attributes:
        text: the text, which is not blank and is valid Unicode.
        model: the model as the endpoint names it.
        tokens_used: tokens of prompt and answer.
        finish_reason: `stop`, or `length` if max_tokens or the model's window cut the text off; None if the endpoint
            gives no reason.
        prompt_tokens: tokens of the prompt.
        completion_tokens: tokens of the answer.
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
        model: the model's name if the answer does not give one.
        secret: the API key, which no error message may repeat.

    Raises:
        LLMReplyInvalid: the body is no completion, or one without text.
        LLMRefused: max_tokens were used up before the first word.
        LLMUnreachable: the body says that the model is still starting.
        LLMTimeout: the body says that the job ran out of time.
    """
    reply = decode(body)
    match reply:
        case {"choices": [{"message": {"content": str(content)}, **choice}, *_], **rest} if content.strip():
            text, reason = whole_text(content), word(choice.get("finish_reason"))
            model = word(rest.get("model")) or model
            return Completion(text=text, model=model, finish_reason=reason, **counts(rest.get("usage")))
        case _:
            raise rejection(reply, body, secret)


def raw(body: str, *, secret: str) -> dict[str, Any]:
    """Return a completion as its server wrote it. Its choices may have no text.

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
    """Return the JSON value of a body; None if it is not JSON."""
    try:
        # NaN and Infinity become null, also where a number such as 1e999 means them: RFC 8259 has neither.
        return json.loads(body, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _finite(written: str) -> float | None:
    number = float(written)
    return number if math.isfinite(number) else None


def excerpt(body: str, secret: str) -> str:
    """Return the endpoint's own words in a form fit for callers: one short line without key and traceback."""
    message = _message(decode(body)).partition("Traceback")[0]
    if len(secret) >= _SECRET_CHARS_MIN:
        message = message.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return shortened(line, _EXCERPT_CHARS_MAX)


def shortened(text: str, chars_max: int) -> str:
    """Cut a text that is too long, and mark the cut."""
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def rejection(reply: object, body: str, secret: str) -> ServiceError:
    """Return the error for a body that is no completion with text."""
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
            return LLMReplyInvalid(f"The LLM endpoint says that its job ended as {status}; its own log says why")
        case {"error": _} | {"object": "error"}:
            reason = excerpt(body, secret) or "it gives no reason"
            return LLMReplyInvalid(f"The LLM endpoint answered with an error: {reason}")
        case _:
            return LLMReplyInvalid(
                "The LLM endpoint answered with something that is not a completion; "
                "check that LLM_BASE_URL ends where its OpenAI routes begin, often /v1"
            )


def _message(reply: object) -> str:
    # Servers disagree about where an error's message is.
    match reply:
        case {"error": {"message": str(text)} | str(text)} | {"message": str(text)} | {"detail": str(text)}:
            return text
        case _:
            return ""


def word(value: object) -> str | None:
    """Return a value that is a text and not empty, or None."""
    return value if isinstance(value, str) and value else None


def whole_text(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Counts(TypedDict):
    """Tokens as the endpoint counted them; 0 if it reported none."""

    tokens_used: int
    prompt_tokens: int
    completion_tokens: int


def counts(usage: object) -> Counts:
    """Read the tokens of a `usage`. Some servers leave the total out."""
    prompt, completion = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
    used = _tokens(usage, "total_tokens") or prompt + completion
    return Counts(tokens_used=used, prompt_tokens=prompt, completion_tokens=completion)


def _tokens(usage: object, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 < count <= _TOKENS_MAX else 0
