"""The house as ARCHITECTURE.md draws it: imports point down, and every dangerous dependency has one home."""

import ast
from functools import cache
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

FLOORS = {
    "memory_service": (
        "batching bounded_cache clock digests model private_folder settings tokens",
        "cursors embedding metadata",
        "filters journal namespaces",
        "checks projection",
        "doctor portable_vectors retrieval",
        "reading writing",
        "service",
        "documents",
    ),
    "research": (
        "grounding llm",
        "context",
        "chat trace",
        "replay sources",
        "drafts",
        "remembering",
        "researcher",
    ),
    "gateway": (
        "client settings observability.logs",
        "exchange serving.services serving.shelves",
        "observability serving.response_cache tools.memory_uris tools.results tools.toolbox",
        "calls",
        "tools",
        "serving.worker",
        "http",
        "mcp openai",
        "serving",
        "runpod",
        "cli",
        "__main__",
    ),
}
"""The wings of a room, floor by floor from the ground. A wing may import what stands below it, and nothing of its own
floor. A module can be a wing of its own (`serving.worker`)."""

HOMES = {
    "faiss": "indexes/",
    "sqlite3": "memory_service/projection/catalog gateway/exchange/chroma.py",
    "onnxruntime": "memory_service/embedding/minilm.py",
    "tokenizers": "memory_service/embedding/minilm.py memory_service/embedding/sentence_transformer.py",
    "huggingface_hub sentence_transformers torch transformers": "memory_service/embedding/sentence_transformer.py",
    "msgpack": "memory_service/journal/records.py memory_service/namespaces/index.py memory_service/projection/",
    "Stemmer": "memory_service/namespaces/words.py",
    "pypdf": "memory_service/documents/pdf.py",
    "selectolax": "memory_service/documents/html.py",
    "markdown_it": "memory_service/documents/markdown.py",
    "subprocess resource": "memory_service/documents/reading.py",
    "fcntl tempfile": "memory_service/private_folder.py",
    "pydantic pydantic_core": "vector_memory/ memory_service/settings.py research/llm/settings.py gateway/",
    "openai httpx2": "research/llm/client.py",
    "httpx": "vector_memory/client/ gateway/serving/in_process.py gateway/mcp/proxy.py gateway/runpod/jobs.py",
    "asyncio": "vector_memory/client/ research/ gateway/ handler.py",
    "redis": "gateway/serving/shelves.py",
    "prometheus_client": "gateway/observability/metrics.py",
    "fastapi starlette": "gateway/",
    "swagger_ui_bundle": "gateway/http/docs_page.py",
    "uvicorn": "gateway/serving/server.py",
    "typer rich": "gateway/cli/",
    "mcp mcp_types": "gateway/mcp/",
    "dotenv": "gateway/settings.py",
    "runpod": "handler.py",
    "onnx": "scripts/minilm_graph.py",
}
"""Where alone a dangerous dependency may be imported. The memories know nothing of asyncio: they run in threads."""

ENVIRONMENT = {"gateway.settings", "memory_service.embedding.minilm"}
"""The latter sets one variable, without which ONNX Runtime would phone home."""

LAZY = ("pypdf", "selectolax", "markdown_it", "runpod", "openai", "onnxruntime", "torch", "sentence_transformers")
"""Never imported by merely importing a module: a start pays only for what it uses."""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in KNOWS
    for path in [*(ROOT / room).rglob("*.py"), *ROOT.glob(f"{room}.py")]
}


@cache
def tree(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(node):
    """Names of the modules that a tree imports, also inside functions. Type-checking blocks are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            yield from (name if name in MODULES else child.module for name in names)
        else:
            yield from imports(child)


@cache
def ours(module):
    """Modules of ours that a module imports."""
    return {name for name in imports(tree(module)) if name in MODULES} - {module}


def wing(module):
    """The wing of a module and its floor, counted from 0."""
    room, _, inner = module.partition(".")
    wings = {name: floor for floor, names in enumerate(FLOORS[room]) for name in names.split()}
    while inner and inner not in wings:
        inner = inner.rpartition(".")[0]
    assert inner, f"{module} stands on no floor of FLOORS"
    return inner, wings[inner]


def at_module_level(tree):
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return imports(ast.Module(body=kept, type_ignores=[]))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_downwards_and_leaves_dangerous_things_in_their_homes(module):
    path = str(MODULES[module].relative_to(ROOT))
    room = module.split(".")[0]
    for imported in {name.split(".")[0] for name in imports(tree(module))}:
        if imported in KNOWS and imported != room:
            assert imported in KNOWS[room], f"{path} imports {imported}: imports only point down"
        homes = [home for names, at in HOMES.items() if imported in names.split() for home in at.split()]
        assert not homes or path.startswith(tuple(homes)), f"{path} imports {imported}, whose home is {homes}"
    for imported in at_module_level(tree(module)):
        assert imported.split(".")[0] not in LAZY, f"{path} imports {imported} when it is itself imported"


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] in FLOORS and "." in name])
def test_a_wing_stands_on_the_floors_below_it(module):
    mine, floor = wing(module)
    for imported in ours(module):
        if imported.split(".")[0] == module.split(".")[0]:
            other, below = wing(imported)
            assert other == mine or below < floor, f"{module} imports {imported}, which does not stand below it"


def test_no_modules_import_each_other_in_a_circle():
    finished = set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            for imported in ours(module):
                visit(imported, [*path, module])
            finished.add(module)

    for module in MODULES:
        visit(module, [])


@pytest.mark.parametrize("module", sorted(MODULES.keys() - ENVIRONMENT))
def test_the_environment_is_read_in_settings_alone(module):
    for node in ast.walk(tree(module)):
        is_read = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        assert not is_read, f"{module} reads the environment"


def test_the_prescribed_top_level_is_there():
    for name in [*KNOWS, "Dockerfile", "pyproject.toml", "tests"]:
        assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), name
