"""The measures of scripts/house.py, on a small tree whose measures are known."""

import ast

import pytest

from scripts import house

TREE = {
    "vector_memory/__init__.py": '''"""The face."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.door import Door


class Client:
    """A client.

    It has two methods.
    """

    limit = 1
    """What it is."""

    # A comment.
    def retrieve(self, query, *, recency_half_life_days=None):  # one more
        """Retrieve."""
        return query


''',
    "gateway/__init__.py": "",
    "gateway/door.py": """from gateway import hall
from vector_memory import Client


class Door:
    def open(self, one, two, three):
        return hall.show(one)


ROUTES = {"/v1/memories/retrieve": Door, "retrieve a memory": None}
""",
    "gateway/hall.py": """def show(one):
    from gateway.door import Door
    return Door


def judge(a, b, c):
    if a and b or c:
        return [x for x in a if x]
    for one in b:
        try:
            while one:
                one = one if c else None
        except ValueError:
            pass
    match a:
        case 1:
            return 1
        case 2:
            return 2
""",
    "handler.py": "import gateway.door\n\n\nclass Door:\n    pass\n",
    "tests/test_door.py": "def test_retrieve():\n    pass\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_blank_lines_comments_and_docstrings_are_no_code(folder):
    measures = house.measure(folder)
    assert measures["lines, vector_memory"] == 23
    assert measures["code lines, vector_memory"] == 7
    assert measures["comment lines in percent"] == round(100 / measures["lines, all"], 2)


def test_tests_are_not_measured(folder):
    assert house.measure(folder)["lines, all"] == sum(
        len(text.splitlines()) for name, text in TREE.items() if not name.startswith("tests/")
    )


def test_imports_inside_functions_make_circles_and_those_for_type_checkers_do_not(folder):
    assert house.measure(folder)["import circles"] == ["gateway.door, gateway.hall"]


def test_floors_count_the_longest_chain_and_a_circle_as_one(folder):
    measures = house.measure(folder)
    assert measures["floors, gateway"] == 1
    assert measures["floors, all"] == 3  # handler, the circle in gateway, vector_memory


def test_a_place_names_an_operation_by_a_definition_or_in_a_route_but_not_in_prose(folder):
    measures = house.measure(folder)
    assert measures["files that name retrieve"] == 2
    assert measures["files that name store"] == 0
    assert measures["files that name recency_half_life_days"] == 1


def test_names_of_classes_in_two_modules_and_functions_with_many_branches_are_listed(folder):
    measures = house.measure(folder)
    assert measures["class names defined twice"] == ["Door"]
    assert measures["functions of complexity over 10"] == ["gateway.hall.judge"]
    assert measures["parameters, most"] == 3


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("def f(): pass", 1),
        ("def f(a, b):\n if a and b: pass\n elif b: pass", 4),
        ("async def f(a):\n async for x in a:\n  pass", 2),
        ("def f(a): return {x for x in a if x}", 2),
    ],
)
def test_complexity_is_one_more_than_the_branches_and_further_operands(source, number):
    assert house.complexity(ast.parse(source).body[0]) == number


def test_the_table_has_a_column_per_folder_and_a_blank_where_one_has_no_such_measure(folder):
    text = house.table({"old": {"circles": ["a, b"], "lines, research": 4}, "new": {"circles": []}})
    assert text.splitlines() == [
        "| measure | old | new |",
        "| --- | --- | --- |",
        "| circles | 1; a, b | 0 |",
        "| lines, research | 4 |  |",
    ]


def test_the_import_of_the_client_is_timed_from_the_folder(folder):
    assert house.measure(folder)["processor ms to import the client"] > 0
    (folder / "vector_memory/__init__.py").write_text("", encoding="utf-8")
    assert house.import_ms(folder) is None
