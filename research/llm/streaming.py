"""Reads a streamed completion: bytes in, pieces of text or raw chunks out, and the whole completion at the end.

The body is not always a stream of events. It may be a proxy's page, the status of a job, or the whole completion from a
server that ignores `stream`. A stream may also report half-way that the engine died, or just stop. None of these ends
an answer: only a `finish_reason` does.

Each event of an OpenAI-compatible server is one JSON document on one `data:` line. So each such line is read by itself,
wherever the transport cuts the bytes.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from research.llm.completion import Completion, counts, decode, excerpt, raw, read, rejection, whole_text, word
from research.llm.errors import LLMBusy, LLMRefused
from vector_memory.errors import LLMReplyInvalid, LLMUnreachable, ServiceError

# The longest answer has 4,000 tokens, so a longer line or body is no answer.
_BYTES_MAX = 1_048_576

_FIELDS = (b":", b"event:", b"id:", b"retry:")
_DONE = "[DONE]"
_BROKEN_OFF = "The LLM's stream broke off before the end of its answer; try again"

# Codes inside an error object of vLLM or RunPod's edge. They mean the same as the HTTP statuses.
_BUSY_CODES = (429, 503)
_REFUSED_CODES = (400, 413, 422)


Chunk: TypeAlias = dict[str, Any]
"""One event of a stream as the server sent it. `choices` is a list of objects, and empty in an event of usage only."""


class _EventReader:
    """Splits bytes into events, and collects the text outside of events."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._line = bytearray()
        self._plain = bytearray()
        self.has_events = False
        self.is_done = False

    @property
    def plain(self) -> str:
        """The text outside of events."""
        return self._plain.decode("utf-8", "replace")

    def feed(self, chunk: bytes) -> list[tuple[object, str]]:
        """Read some bytes, and return each event that they complete, as its JSON value and its text.

        Raises:
            ServiceError: as `StreamReader.feed`.
        """
        first, *rest = chunk.split(b"\n")
        self._line += first
        events: list[tuple[object, str]] = []
        for line in rest:
            events += self._take(bytes(self._line))
            self._line = bytearray(line)
        if len(self._line) > _BYTES_MAX:
            raise LLMReplyInvalid("The LLM endpoint sent a line of more than 1 MiB, which is no part of an answer")
        return events

    def _take(self, line: bytes) -> list[tuple[object, str]]:
        line = line.strip(b"\r")
        if line.startswith(b"data:"):
            self.has_events = True
            return self._take_event(line.removeprefix(b"data:").decode("utf-8", "replace").strip())
        if line and not line.startswith(_FIELDS):
            self._plain += line + b"\n"
            if len(self._plain) > _BYTES_MAX:
                raise LLMReplyInvalid("The LLM endpoint answered with more than 1 MiB that is no stream of events")
        return []

    def _take_event(self, data: str) -> list[tuple[object, str]]:
        if data == _DONE:
            self.is_done = True
        if not data or self.is_done:
            return []
        reply = decode(data)
        match reply:
            # Some servers send `"error": null` in every event.
            case {"error": error} if error is not None:
                raise _reported_error(reply, data, self._secret)
            case {"object": "error"}:
                raise _reported_error(reply, data, self._secret)
        return [(reply, data)]


class StreamReader:
    """Reads one streamed answer as text.

    Feed it all bytes until `is_done`, or a line break after the last bytes. Then take the `rest`.
    """

    def __init__(self, *, model: str, secret: str) -> None:
        """Begin an answer.

        Args:
            model: the model's name if the stream does not give one.
            secret: the API key, which no error message may repeat.
        """
        self._model = model
        self._secret = secret
        self._events = _EventReader(secret)
        self._pieces: list[str] = []
        self._finish_reason: str | None = None
        self._called_tool = False
        self._usage: object = None

    @property
    def is_done(self) -> bool:
        """Whether the stream has said that nothing follows."""
        return self._events.is_done

    def feed(self, chunk: bytes) -> list[str]:
        """Read some bytes.

        Returns:
            The pieces of text that they complete, none of them empty.

        Raises:
            LLMReplyInvalid: the stream reports an error, or is no stream of completions.
            LLMBusy: the stream reports that the endpoint is too busy.
            LLMRefused: the stream reports that the request is wrong.
        """
        return [piece for reply, data in self._events.feed(chunk) for piece in self._take(reply, data)]

    def rest(self) -> list[str | Completion]:
        """Return the completion, and before it the text that `feed` did not return.

        Raises:
            ServiceError: as `end`.
        """
        completion = self.end()
        return [completion] if self._pieces else [completion.text, completion]

    def end(self) -> Completion:
        """Return the completion. Its text is all pieces joined, or the text of a body that was no stream.

        Raises:
            LLMUnreachable: the stream ended before the answer did.
            ServiceError: as `completion.read`, if the body was no stream.
        """
        if not self._events.has_events:
            return read(self._events.plain, model=self._model, secret=self._secret)
        if self._finish_reason is None:
            raise LLMUnreachable(_BROKEN_OFF)
        text = "".join(self._pieces)
        if not text.strip():
            # Report an answer without text as `completion.read` would.
            message: dict[str, object] = {"tool_calls": [{}]} if self._called_tool else {}
            reply = {"choices": [{"message": message, "finish_reason": self._finish_reason}]}
            raise rejection(reply, "", self._secret)
        return Completion(text=text, model=self._model, finish_reason=self._finish_reason, **counts(self._usage))

    def _take(self, reply: object, data: str) -> list[str]:
        match reply:
            case {"choices": [dict() as choice, *_], **rest}:
                self._note(rest)
                return self._take_choice(choice)
            case {"choices": [] | None, **rest}:
                self._note(rest)
                return []
            case _:
                raise rejection(reply, data, self._secret)

    def _note(self, rest: dict[object, object]) -> None:
        # The usage comes in a last event without choices. Some servers repeat it in every event.
        self._model = word(rest.get("model")) or self._model
        self._usage = rest.get("usage") or self._usage

    def _take_choice(self, choice: dict[object, object]) -> list[str]:
        self._finish_reason = word(choice.get("finish_reason")) or self._finish_reason
        match choice.get("delta"):
            case {"content": str(content)} if content:
                piece = whole_text(content)
                self._pieces.append(piece)
                return [piece]
            case {"tool_calls": [_, *_]}:
                self._called_tool = True
        return []


class ChunkReader:
    """Reads one streamed answer as events, and passes them on as they are. It is fed as `StreamReader` is.

    Events before the first word (a role, an empty text) are held back until then, so that another endpoint can still
    be asked instead.
    """

    def __init__(self, *, secret: str) -> None:
        """Begin an answer.

        Args:
            secret: the API key, which no error message may repeat.
        """
        self._secret = secret
        self._events = _EventReader(secret)
        self._held: list[Chunk] = []
        self._has_begun = False
        # For each choice by its index, whether its end is still to come.
        self._is_unfinished: dict[int, bool] = {}

    @property
    def is_done(self) -> bool:
        """Whether the stream has said that nothing follows."""
        return self._events.is_done

    def feed(self, chunk: bytes) -> list[Chunk]:
        """Read some bytes, and return the events that may be passed on.

        Raises:
            ServiceError: as `StreamReader.feed`.
        """
        for reply, data in self._events.feed(chunk):
            self._held.append(self._checked(reply, data))
        if not self._has_begun:
            return []
        chunks, self._held = self._held, []
        return chunks

    def rest(self) -> list[Chunk]:
        """Return the remaining events: those held back, or a whole completion as one event if the body was no stream.

        Raises:
            LLMUnreachable: the stream ended before each of its choices did.
            ServiceError: as `completion.raw`, if the body was no stream.
        """
        if not self._events.has_events:
            return [_as_chunk(raw(self._events.plain, secret=self._secret))]
        if not self._is_unfinished or any(self._is_unfinished.values()):
            raise LLMUnreachable(_BROKEN_OFF)
        return self._held

    def _checked(self, reply: object, data: str) -> Chunk:
        if not isinstance(reply, dict) or "choices" not in reply:
            raise rejection(reply, data, self._secret)
        chunk: Chunk = {**reply, "choices": reply["choices"] or []}
        if not isinstance(chunk["choices"], list) or not all(isinstance(one, dict) for one in chunk["choices"]):
            raise rejection(None, data, self._secret)
        for choice in chunk["choices"]:
            index, is_finished = choice.get("index", 0), choice.get("finish_reason") is not None
            if isinstance(index, int):
                self._is_unfinished[index] = self._is_unfinished.get(index, True) and not is_finished
            delta = choice.get("delta")
            has_word = isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
            self._has_begun = self._has_begun or is_finished or has_word
        return chunk


def _as_chunk(reply: Mapping[str, Any]) -> Chunk:
    choices = [
        {"delta": choice.get("message"), **{name: value for name, value in choice.items() if name != "message"}}
        for choice in reply["choices"]
    ]
    return {**reply, "object": "chat.completion.chunk", "choices": choices}


def _reported_error(reply: object, data: str, secret: str) -> ServiceError:
    reason = excerpt(data, secret) or "it gives no reason"
    match reply:
        case {"error": {"code": int(code)}} | {"code": int(code)} if code in _BUSY_CODES:
            return LLMBusy(f"The LLM endpoint is busy: {reason}")
        case {"error": {"code": int(code)}} | {"code": int(code)} if code in _REFUSED_CODES:
            return LLMRefused(f"The LLM endpoint refused the request: {reason}")
    return LLMReplyInvalid(f"The LLM endpoint failed while it answered: {reason}")
