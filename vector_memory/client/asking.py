"""Types for client methods whose keywords are the fields of a request type. `Client` derives its methods from them."""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from vector_memory.fields import Request

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Ask(Protocol[P, R_co]):
    """A client method that takes the fields of a request type. The query may be its first positional argument."""

    @overload
    def __call__(self, query: str, /, **fields: Any) -> R_co: ...
    @overload
    def __call__(self, *args: P.args, **fields: P.kwargs) -> R_co: ...


class Asking(Generic[P, R]):
    """A descriptor that holds a client method. Reading it on an instance returns the bound method as an `Ask`."""

    def __init__(self, method: Callable[..., R]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, client: None, owner: Any = None) -> "Asking[P, R]": ...
    @overload
    def __get__(self, client: object, owner: Any = None) -> Ask[P, R]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any:
        return self if client is None else self.method.__get__(client, owner)


def asks(_request: Callable[P, Request]) -> Callable[[Callable[..., R]], Asking[P, R]]:
    """Give a method the keywords of a request type, so that the fields are declared in one place."""
    return Asking
