"""Reads a streamed completion: bytes in, pieces of text out, and at the end the completion as a whole.

What comes is not always a stream of events: a proxy's page, the status of a job, or the whole completion from a server
that ignores `stream`. A stream may also say half-way that the engine died, or simply end. None of that passes for the
end of an answer: only a `finish_reason` does.

The events of OpenAI-compatible servers are one JSON document on one `data:` line each, so every such line counts by
itself, wherever the transport cuts the bytes.
"""

from memory_service.errors import LLMBusy, LLMRefused, LLMReplyInvalid, LLMUnreachable, ServiceError
from research.completion import Completion, decode, excerpt, read, rejection, tokens, whole_text, word

# The longest answer has 4,000 tokens; a line or a body beyond this is none.
_BYTES_MAX = 1_048_576

_FIELDS = (b":", b"event:", b"id:", b"retry:")
_DONE = "[DONE]"

# What vLLM and RunPod's edge mean by these codes inside an error object, as they do by HTTP statuses.
_BUSY_CODES = (429, 503)
_REFUSED_CODES = (400, 413, 422)


class StreamReader:
    """One streamed answer. Feed it until `is_done` or until no more comes, then a line break, then ask for the end."""

    def __init__(self, *, model: str, secret: str) -> None:
        """Args:
        model: its name where the stream does not give one.
        secret: the API key, which no error message may repeat.
        """
        self._model = model
        self._secret = secret
        self._line = bytearray()
        self._plain = bytearray()
        self._pieces: list[str] = []
        self._has_events = False
        self._finish_reason: str | None = None
        self._called_tool = False
        self._usage: object = None
        self.is_done = False

    def feed(self, chunk: bytes) -> list[str]:
        """Take some bytes.

        Returns:
            The pieces of text that they completed, none of them empty.

        Raises:
            LLMReplyInvalid: the stream reports an error, or is no stream of completions.
            LLMBusy: it reports that the endpoint is too busy.
            LLMRefused: it reports that the request is wrong.
        """
        first, *rest = chunk.split(b"\n")
        self._line += first
        found: list[str] = []
        for line in rest:
            found += self._take(bytes(self._line))
            self._line = bytearray(line)
        if len(self._line) > _BYTES_MAX:
            raise LLMReplyInvalid("The LLM endpoint sent a line of more than 1 MiB, which is no part of an answer")
        return found

    def end(self) -> Completion:
        """The completion; its text is what `feed` returned, save where no stream came and it was returned whole.

        Raises:
            LLMUnreachable: the stream ended before the answer did.
            ServiceError: as `completion.read`, when the body was no stream.
        """
        if not self._has_events:
            return read(self._plain.decode("utf-8", "replace"), model=self._model, secret=self._secret)
        if self._finish_reason is None:
            raise LLMUnreachable("The LLM's stream broke off before the end of its answer; try again")
        text = "".join(self._pieces)
        if not text.strip():
            message: dict[str, object] = {"tool_calls": [{}]} if self._called_tool else {}
            reply = {"choices": [{"message": message, "finish_reason": self._finish_reason}]}
            raise rejection(reply, "", self._secret)
        return Completion(
            text=text,
            model=self._model,
            tokens_used=tokens(self._usage, "total_tokens"),
            finish_reason=self._finish_reason,
            prompt_tokens=tokens(self._usage, "prompt_tokens"),
            completion_tokens=tokens(self._usage, "completion_tokens"),
        )

    def _take(self, line: bytes) -> list[str]:
        line = line.strip(b"\r")
        if line.startswith(b"data:"):
            self._has_events = True
            return self._take_event(line.removeprefix(b"data:").decode("utf-8", "replace").strip())
        if line and not line.startswith(_FIELDS):
            self._plain += line + b"\n"
            if len(self._plain) > _BYTES_MAX:
                raise LLMReplyInvalid("The LLM endpoint answered with more than 1 MiB that is no stream of events")
        return []

    def _take_event(self, data: str) -> list[str]:
        if data == _DONE:
            self.is_done = True
        if not data or self.is_done:
            return []
        reply = decode(data)
        match reply:
            case {"error": _} | {"object": "error"}:
                raise self._reported(reply, data)
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

    def _reported(self, reply: object, data: str) -> ServiceError:
        said = excerpt(data, self._secret) or "it gives no reason"
        match reply:
            case {"error": {"code": int(code)}} | {"code": int(code)} if code in _BUSY_CODES:
                return LLMBusy(f"The LLM endpoint is busy: {said}")
            case {"error": {"code": int(code)}} | {"code": int(code)} if code in _REFUSED_CODES:
                return LLMRefused(f"The LLM endpoint refused the request: {said}")
        return LLMReplyInvalid(f"The LLM endpoint failed while it answered: {said}")
