"""Every error has a status, a code of the closed set, and a sentence of its own."""

from typing import get_args

import pytest

from gateway.http.errors import status_of
from vector_memory.errors import Code, NotFound, ServiceError


def test_an_error_of_an_installed_tool_has_the_status_of_its_base_class():
    class NoSuchLead(NotFound):
        """There is no such lead."""

    assert status_of(NoSuchLead()) == status_of(NotFound()) == 404


def tree(of):
    yield of
    for child in of.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize(
    "error",
    [kind for kind in tree(ServiceError) if not kind.__module__.startswith(("test", "tests"))],
    ids=lambda error: error.__name__,
)
def test_every_error_is_in_the_table_and_explains_itself(error):
    assert 400 <= status_of(error()) < 600
    assert error.code in get_args(Code)
    assert error().message == error.__doc__
    assert error.__doc__.endswith(".")
