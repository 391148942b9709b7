"""The items that the readers of formats yield: memories to import, and problems with what they could not read."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from vector_memory.errors import InvalidInput
from vector_memory.memories import NewMemory


@dataclass(frozen=True, slots=True)
class Item:
    """A memory to import, with its place in the source.

    Attributes:
        where: file and line, or another place that a person can find.
    """

    where: str
    memory: NewMemory


@dataclass(frozen=True, slots=True)
class Problem:
    """A place in the source that could not be imported, and the reason."""

    where: str
    reason: str


ItemOrProblem: TypeAlias = Item | Problem


def item_of(where: str, **fields: Any) -> ItemOrProblem:
    """Return a memory to import, or a problem if the fields are not those of a memory."""
    try:
        return Item(where, NewMemory(**fields))
    except InvalidInput as error:
        return Problem(where, error.message)
