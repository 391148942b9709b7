"""What the packages import is what pyproject.toml declares, neither less nor more."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"gateway", "research", "memory_service", "indexes", "vector_memory", "handler"}

CLIENT = tomllib.loads((ROOT / "vector_memory/pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("documents", "redis", "runpod", "sentence-transformers")
"""The extras of a running service; the others are for working on it."""

BROUGHT = {"pydantic-core", "typing-extensions"}
"""Parts of pydantic, whose version decides theirs."""

NOT_IMPORTED = {"aiofiles", "httptools", "uvloop", "python-multipart"}
"""Declared and imported by no module of ours: the first is prescribed; uvicorn and Starlette take up the others."""


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements):
    return {normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def imported():
    """Distributions that the runtime packages import, also inside functions, each with one module that does."""
    distributions = packages_distributions()
    found = {}
    for path in [ROOT / "handler.py", *(path for name in OURS for path in (ROOT / name).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for package in {name.split(".")[0] for name in names} - OURS - sys.stdlib_module_names:
                [distribution, *_] = distributions.get(package, [package])  # an extra may not be installed
                found[normalized(distribution)] = str(path.relative_to(ROOT))
    return found


def test_every_import_is_declared():
    optional = {name for extra in EXTRAS for name in declared(PROJECT["optional-dependencies"][extra])}
    undeclared = imported().keys() - declared(PROJECT["dependencies"] + CLIENT["dependencies"]) - optional - BROUGHT
    assert not {name: imported()[name] for name in undeclared}


def test_every_declared_dependency_is_imported():
    assert declared(PROJECT["dependencies"]) - imported().keys() == NOT_IMPORTED | {CLIENT["name"]}
