"""What the readers of formats yield: memories to import, and what they could not read."""

from dataclasses import dataclass
from typing import TypeAlias

from vector_memory.memories import NewMemory


@dataclass(frozen=True, slots=True)
class Item:
    """A memory to import, and where it stood.

    Attributes:
        where: file and line, or whatever leads a person there.
    """

    where: str
    memory: NewMemory


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be imported, where it stood, and why."""

    where: str
    reason: str


Read: TypeAlias = Item | Problem
