"""What a streamed research tells: Context once, then Token and Cited as they come, then Answer or Failed."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from research.model import Answer, Citation, Omitted, Passage
from vector_memory.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Context:
    """The passages that the answer is going to be made from; the fields are those of `Answer`."""

    context: tuple[Passage, ...]
    omitted: tuple[Omitted, ...]
    tokens_counted: Literal["server", "estimate"]


@dataclass(frozen=True, slots=True)
class Token:
    """The next piece of the answer's text, not empty.

    All pieces together are `Answer.result`, save that marks of unknown passages, and with `strict` unsupported
    sentences, are taken out of that.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Cited:
    """A citation in a sentence that is complete; `answer_span` is in the text as it came."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer follows; what came before is not one."""

    error: ServiceError


Step: TypeAlias = Context | Token | Cited | Answer | Failed
