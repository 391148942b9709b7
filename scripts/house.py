"""Measure the size and structure of the code: `python -m scripts.house [FOLDER] [--compare FOLDER] [--json]`.

Only the packages of the service count. They are read and not imported; the import time comes from other processes.
"""

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

PACKAGES = ("vector_memory", "gateway", "research", "memory_service", "indexes")
SOURCES = (*(f"{package}/**/*.py" for package in PACKAGES), "handler.py")
OPERATIONS = ("store", "retrieve", "history", "receipt")
TIMER = "import time; start = time.process_time(); from {} import Client; print(time.process_time() - start)"
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.COMMENT}


class Module:
    """One source file, parsed. Blocks for type checkers alone are not looked into."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.path = path.relative_to(folder)
        self.name = ".".join(self.path.with_suffix("").parts).removesuffix(".__init__")
        self.text = path.read_text(encoding="utf-8")
        self.lines = len(self.text.splitlines())
        seen = [one for one in ast.parse(self.text).body if not ast.unparse(one).startswith("if TYPE_CHECKING:")]
        self.nodes = [node for statement in seen for node in ast.walk(statement)]
        tokens = list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
        code = [token for token in tokens if token.type not in _LAYOUT]
        filled = {line for token in code for line in range(token.start[0], token.end[0] + 1)}
        strings = [one for one in self.nodes if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)]
        explained = {line for one in strings for line in range(one.lineno, (one.end_lineno or 0) + 1)}  # docstrings
        self.code_lines, self.comment_lines = len(filled - explained), len(comments - filled)

    def imports(self, modules: set[str]) -> set[str]:
        """Return the modules that this one imports, also inside functions."""
        names = {alias.name for node in self.nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in self.nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names} & modules or {node.module}
        return names & modules - {self.name}

    def words(self) -> set[str]:
        """Return what this file defines and calls as a method, and the parts of strings that are keys or routes."""
        defined = {node.name for node in self.nodes if isinstance(node, ast.ClassDef | _Function)}
        calls = [node.func for node in self.nodes if isinstance(node, ast.Call)]
        strings = [str(node.value) for node in self.nodes if isinstance(node, ast.Constant)]
        parts = {word for text in strings if not re.search(r"\s", text) for word in re.split(r"\W+", text)}
        return defined | parts | {call.attr for call in calls if isinstance(call, ast.Attribute)}


def complexity(node: _Function) -> int:
    """Return McCabe's number: 1, plus one for each branch and for each further operand of `and` and `or`."""
    return 1 + sum(len(n.values) - 1 if isinstance(n, ast.BoolOp) else isinstance(n, _BRANCHES) for n in ast.walk(node))


def circles(edges: dict[str, set[str]]) -> list[frozenset[str]]:
    """Return the largest sets of modules in which each imports every other one, directly or through others."""
    reached = {name: set(targets) for name, targets in edges.items()}
    for via, name in product(edges, edges):
        reached[name] |= reached[via] if via in reached[name] else set()
    return sorted({frozenset(b for b in reached[a] if a in reached[b]) for a in edges} - {frozenset()}, key=sorted)


def floors(edges: dict[str, set[str]]) -> int:
    """Return the number of modules in the longest chain of imports. A circle counts as one."""
    home = {name: frozenset({name}) for name in edges} | {name: group for group in circles(edges) for name in group}

    @cache
    def height(group: frozenset[str]) -> int:
        return 1 + max((height(home[name]) for member in group for name in edges[member] - group), default=0)

    return max(map(height, home.values()), default=0)


def import_ms(folder: Path) -> float | None:
    """Return the least of five processor times to import the folder's client, or None where that fails."""
    face = "vector_memory" if (folder / "vector_memory").is_dir() else "gateway.client"
    command = [sys.executable, "-c", TIMER.format(face)]
    runs = [subprocess.run(command, cwd=folder, capture_output=True, check=False) for _ in range(5)]
    return None if any(run.returncode for run in runs) else round(1_000 * min(float(run.stdout) for run in runs), 1)


def measure(folder: Path) -> dict[str, Any]:
    """Return every measure of the code in a folder by its name; a list holds the names of what is counted."""
    modules = [Module(folder, path) for pattern in SOURCES for path in sorted(folder.glob(pattern))]
    edges = {module.name: module.imports({one.name for one in modules}) for module in modules}
    functions = [(f"{it.name}.{one.name}", one) for it in modules for one in it.nodes if isinstance(one, _Function)]
    lengths = [(one.end_lineno or 0) - one.lineno + 1 for _, one in functions]
    parameters = [{it.arg for it in ast.walk(one.args) if isinstance(it, ast.arg)} - {"self"} for _, one in functions]
    classes = Counter(node.name for module in modules for node in module.nodes if isinstance(node, ast.ClassDef))
    measures: dict[str, Any] = {}
    for package in (*PACKAGES, "handler", "all"):
        members = [module for module in modules if package in {module.name.split(".")[0], "all"}]
        names = {module.name for module in members}
        measures[f"lines, {package}"] = sum(module.lines for module in members)
        measures[f"code lines, {package}"] = sum(module.code_lines for module in members)
        measures[f"floors, {package}"] = floors({name: edges[name] & names for name in names})
    return measures | {
        "comment lines in percent": round(100 * sum(it.comment_lines for it in modules) / measures["lines, all"], 2),
        "modules over 300 lines": sorted(module.path.as_posix() for module in modules if module.lines > 300),
        "files in the largest folder": max(Counter(module.path.parent for module in modules).values()),
        "lines of a function, median": median(lengths),
        "lines of a function, 95th percentile": quantiles(lengths, n=20, method="inclusive")[-1],
        "lines of a function, most": max(lengths),
        "parameters, most": max(map(len, parameters)),
        "functions of complexity over 10": sorted(name for name, one in functions if complexity(one) > 10),
        "import circles": [", ".join(sorted(group)) for group in circles(edges)],
        "class names defined twice": sorted(name for name, count in classes.items() if count > 1),
        **{f"files that name {one}": sum(one in module.words() for module in modules) for one in OPERATIONS},
        "files that name recency_half_life_days": sum("recency_half_life_days" in module.text for module in modules),
        "processor ms to import the client": import_ms(folder),
    }


def table(columns: dict[str, dict[str, Any]]) -> str:
    """Return measures as a Markdown table with one column per folder; a list shows its length and its items."""
    lines = [["measure", *columns], ["---"] * (1 + len(columns))]
    for name in {name: None for measures in columns.values() for name in measures}:
        values = [measures.get(name, "") for measures in columns.values()]
        lines.append([name, *("; ".join([str(len(it)), *it]) if isinstance(it, list) else str(it) for it in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the measures."""
    parser = argparse.ArgumentParser(prog="python -m scripts.house")
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--compare", type=Path, help="another checkout, whose column comes first")
    parser.add_argument("--json", action="store_true", help="print JSON instead, by folder")
    options = parser.parse_args()
    columns = {str(one): measure(one) for one in (options.compare, options.folder) if one}
    print(json.dumps(columns, indent=2) if options.json else table(columns))


if __name__ == "__main__":
    main()
