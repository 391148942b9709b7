"""Every error has a status, a code of the closed set, and a sentence of its own."""

from typing import get_args

import pytest

from gateway.http.errors import STATUS
from vector_memory.errors import Code, ServiceError


def tree(of):
    yield of
    for child in of.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("error", list(tree(ServiceError)), ids=lambda error: error.__name__)
def test_every_error_is_in_the_table_and_explains_itself(error):
    assert 400 <= STATUS[error] < 600
    assert error.code in get_args(Code)
    assert error().message == error.__doc__
    assert error.__doc__.endswith(".")
