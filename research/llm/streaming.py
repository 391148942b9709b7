"""Reads a streamed completion: bytes in, pieces of text or raw chunks out, and at the end what the whole came to.

What comes is not always a stream of events: a proxy's page, the status of a job, or the whole completion from a server
that ignores `stream`. A stream may also say half-way that the engine died, or simply end. None of that passes for the
end of an answer: only a `finish_reason` does.

The events of OpenAI-compatible servers are one JSON document on one `data:` line each, so every such line counts by
itself, wherever the transport cuts the bytes.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from research.llm.completion import Completion, counts, decode, excerpt, raw, read, rejection, whole_text, word
from vector_memory.errors import LLMBusy, LLMRefused, LLMReplyInvalid, LLMUnreachable, ServiceError

# The longest answer has 4,000 tokens; a line or a body beyond this is none.
_BYTES_MAX = 1_048_576

_FIELDS = (b":", b"event:", b"id:", b"retry:")
_DONE = "[DONE]"
_BROKEN_OFF = "The LLM's stream broke off before the end of its answer; try again"

# What vLLM and RunPod's edge mean by these codes inside an error object, as they do by HTTP statuses.
_BUSY_CODES = (429, 503)
_REFUSED_CODES = (400, 413, 422)


Chunk: TypeAlias = dict[str, Any]
"""One event of a stream as the server sent it: `choices` is a list of objects, empty in an event of usage alone."""


class _EventReader:
    """Takes bytes apart into events, and keeps apart what is no event."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._line = bytearray()
        self._plain = bytearray()
        self.has_events = False
        self.is_done = False

    @property
    def plain(self) -> str:
        """What came outside of events."""
        return self._plain.decode("utf-8", "replace")

    def feed(self, chunk: bytes) -> list[tuple[object, str]]:
        """Take some bytes; the events that they completed as JSON values, each with its text.

        Raises:
            ServiceError: as `StreamReader.feed`.
        """
        first, *rest = chunk.split(b"\n")
        self._line += first
        found: list[tuple[object, str]] = []
        for line in rest:
            found += self._take(bytes(self._line))
            self._line = bytearray(line)
        if len(self._line) > _BYTES_MAX:
            raise LLMReplyInvalid("The LLM endpoint sent a line of more than 1 MiB, which is no part of an answer")
        return found

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
            # Some servers carry `"error": null` in every event.
            case {"error": error} if error is not None:
                raise _reported(reply, data, self._secret)
            case {"object": "error"}:
                raise _reported(reply, data, self._secret)
        return [(reply, data)]


class StreamReader:
    """One streamed answer. Feed it until `is_done` or until no more comes, then a line break, then ask for the end."""

    def __init__(self, *, model: str, secret: str) -> None:
        """Args:
        model: its name where the stream does not give one.
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
        """Take some bytes.

        Returns:
            The pieces of text that they completed, none of them empty.

        Raises:
            LLMReplyInvalid: the stream reports an error, or is no stream of completions.
            LLMBusy: it reports that the endpoint is too busy.
            LLMRefused: it reports that the request is wrong.
        """
        return [piece for reply, data in self._events.feed(chunk) for piece in self._take(reply, data)]

    def rest(self) -> list[str | Completion]:
        """What is left to tell at the end: the completion, and before it the text that no piece has told.

        Raises:
            ServiceError: as `end`.
        """
        completion = self.end()
        return [completion] if self._pieces else [completion.text, completion]

    def end(self) -> Completion:
        """The completion; its text is what `feed` returned, save where no stream came and it was returned whole.

        Raises:
            LLMUnreachable: the stream ended before the answer did.
            ServiceError: as `completion.read`, when the body was no stream.
        """
        if not self._events.has_events:
            return read(self._events.plain, model=self._model, secret=self._secret)
        if self._finish_reason is None:
            raise LLMUnreachable(_BROKEN_OFF)
        text = "".join(self._pieces)
        if not text.strip():
            message: dict[str, object] = {"tool_calls": [{}]} if self._called_tool else {}
            reply = {"choices": [{"message": message, "finish_reason": self._finish_reason}]}
            raise rejection(reply, "", self._secret)
        return Completion(
            text=text,
            model=self._model,
            finish_reason=self._finish_reason,
            **counts(self._usage),
        )

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
        """The usage comes in a last event without choices; some servers repeat it in every one."""
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
    """One streamed answer whose events are handed on as they are. It is fed as `StreamReader` is.

    What comes before the first word (a role, an empty text) is held back until then, so that whoever asks can still
    ask somebody else.
    """

    def __init__(self, *, secret: str) -> None:
        """Args:
        secret: the API key, which no error message may repeat.
        """
        self._secret = secret
        self._events = _EventReader(secret)
        self._held: list[Chunk] = []
        self._has_told = False
        self._unfinished: dict[object, bool] = {}

    @property
    def is_done(self) -> bool:
        """Whether the stream has said that nothing follows."""
        return self._events.is_done

    def feed(self, chunk: bytes) -> list[Chunk]:
        """Take some bytes; the events that may go on.

        Raises:
            ServiceError: as `StreamReader.feed`.
        """
        for reply, data in self._events.feed(chunk):
            self._held.append(self._checked(reply, data))
        if not self._has_told:
            return []
        told, self._held = self._held, []
        return told

    def rest(self) -> list[Chunk]:
        """What is left at the end: nothing, or a whole completion, where no stream came, as one event.

        Raises:
            LLMUnreachable: the stream ended before each of its answers did.
            ServiceError: as `completion.raw`, when the body was no stream.
        """
        if not self._events.has_events:
            return [_as_chunk(raw(self._events.plain, secret=self._secret))]
        if not self._unfinished or any(self._unfinished.values()):
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
                self._unfinished[index] = self._unfinished.get(index, True) and not is_finished
            delta = choice.get("delta")
            says = isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
            self._has_told = self._has_told or is_finished or says
        return chunk


def _as_chunk(reply: Mapping[str, Any]) -> Chunk:
    choices = [
        {"delta": choice.get("message"), **{name: value for name, value in choice.items() if name != "message"}}
        for choice in reply["choices"]
    ]
    return {**reply, "object": "chat.completion.chunk", "choices": choices}


def _reported(reply: object, data: str, secret: str) -> ServiceError:
    said = excerpt(data, secret) or "it gives no reason"
    match reply:
        case {"error": {"code": int(code)}} | {"code": int(code)} if code in _BUSY_CODES:
            return LLMBusy(f"The LLM endpoint is busy: {said}")
        case {"error": {"code": int(code)}} | {"code": int(code)} if code in _REFUSED_CODES:
            return LLMRefused(f"The LLM endpoint refused the request: {said}")
    return LLMReplyInvalid(f"The LLM endpoint failed while it answered: {said}")
