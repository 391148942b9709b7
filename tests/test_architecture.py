"""The house as ARCHITECTURE.md draws it: imports point down, and every dangerous dependency has one home."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

KNOWS = {
    "vector_memory": set(),
    "indexes": set(),
    "memory_service": {"indexes", "vector_memory"},
    "research": {"memory_service", "vector_memory"},
    "gateway": {"memory_service", "research", "vector_memory"},
    "handler": {"gateway", "vector_memory"},
}
"""Which of our rooms each room may import."""

HOMES = {
    "faiss": {"indexes/"},
    "sqlite3": {"memory_service/projection/catalog", "gateway/exchange/chroma.py"},
    "onnxruntime": {"memory_service/embedding/minilm.py"},
    "tokenizers": {"memory_service/embedding/minilm.py", "memory_service/embedding/sentence_transformer.py"},
    "onnx": {"scripts/minilm_graph.py"},
    "sentence_transformers": {"memory_service/embedding/sentence_transformer.py"},
    "transformers": {"memory_service/embedding/sentence_transformer.py"},
    "torch": {"memory_service/embedding/sentence_transformer.py"},
    "msgpack": {
        "memory_service/journal/records.py",
        "memory_service/projection/catalog",
        "memory_service/namespaces/index.py",
        "memory_service/projection/snapshots.py",
    },
    "Stemmer": {"memory_service/namespaces/words.py"},
    "pypdf": {"memory_service/documents/pdf.py"},
    "selectolax": {"memory_service/documents/html.py"},
    "markdown_it": {"memory_service/documents/markdown.py"},
    "fcntl": {"memory_service/private_folder.py"},
    "openai": {"research/llm/client.py"},
    "redis": {"gateway/serving/response_cache.py"},
    "prometheus_client": {"gateway/observability/metrics.py"},
    "fastapi": {"gateway/"},
    "starlette": {"gateway/"},
    "uvicorn": {"gateway/serving/server.py"},
    "typer": {"gateway/cli/"},
    "mcp": {"gateway/mcp/"},
    "mcp_types": {"gateway/mcp/"},
    "dotenv": {"gateway/settings.py"},
    "runpod": {"handler.py"},
}

ENVIRONMENT = {"gateway/settings.py", "memory_service/embedding/minilm.py"}
"""The latter sets one variable, without which ONNX Runtime would phone home."""

LAZY = ("pypdf", "selectolax", "markdown_it", "runpod", "openai", "onnxruntime", "torch", "sentence_transformers")
"""Never imported by merely importing a module: a start pays only for what it uses."""


def sources():
    files = [ROOT / "handler.py"]
    for room in KNOWS:
        files += sorted((ROOT / room).rglob("*.py"))
    return [path for path in files if path.exists()]


def imports(node):
    """Top-level names of the packages that a tree imports, type-checking blocks left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield (child.module or "").split(".")[0]
        else:
            yield from imports(child)


def at_module_level(tree):
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return imports(ast.Module(body=kept, type_ignores=[]))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_downwards_and_leaves_dangerous_things_in_their_homes(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = str(path.relative_to(ROOT))
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for imported in imports(tree):
        if imported in KNOWS and imported != room:
            assert imported in KNOWS[room], f"{name} imports {imported}: imports only point down"
        if imported in HOMES:
            assert any(name.startswith(home) for home in HOMES[imported]), f"{name} imports {imported}"
    for imported in at_module_level(tree):
        assert imported not in LAZY, f"{name} imports {imported} when it is itself imported"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_environment_is_read_in_settings_alone(path):
    if str(path.relative_to(ROOT)) in ENVIRONMENT:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_read = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        assert not is_read, f"{path.relative_to(ROOT)} reads the environment"


def test_the_prescribed_top_level_is_there():
    for name in (
        "memory_service",
        "research",
        "indexes",
        "gateway",
        "handler.py",
        "Dockerfile",
        "pyproject.toml",
        "tests",
    ):
        assert (ROOT / name).exists(), name
