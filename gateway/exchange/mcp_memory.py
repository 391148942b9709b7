"""The knowledge graph of MCP's reference memory server: one entity or relation per line.

An observation says nothing without its entity, so each becomes a sentence about the entity.
The repository modelcontextprotocol/servers defines the format in `src/memory`.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

from gateway.exchange.items import ItemOrProblem, Problem, item_of


def is_graph_line(value: dict[str, Any]) -> bool:
    """Return whether a value is an entity or a relation."""
    return value.get("type") in ("entity", "relation") and "content" not in value


def items(value: dict[str, Any], where: str, namespace: str) -> Iterator[ItemOrProblem]:
    """Yield a memory for each observation of an entity, or one for a relation."""
    names = ("name", "entityType") if value["type"] == "entity" else ("from", "relationType", "to")
    missing = [name for name in names if not isinstance(value.get(name), str)]
    if missing:
        yield Problem(where, f"This {value['type']} has no {missing[0]}.")
    elif value["type"] == "entity":
        yield from _observations(value, where, namespace)
    else:
        text = f"{value['from']} {value['relationType'].replace('_', ' ')} {value['to']}"
        metadata = {"kind": "relation", "from": value["from"], "relation": value["relationType"], "to": value["to"]}
        yield item_of(where, content=text, key=_key("relation", text), namespace=namespace, metadata=metadata)


def _observations(value: dict[str, Any], where: str, namespace: str) -> Iterator[ItemOrProblem]:
    name, kind, observations = value["name"], value["entityType"], value.get("observations", [])
    if not isinstance(observations, list) or not all(isinstance(each, str) for each in observations):
        yield Problem(where, "The observations of this entity are not a list of texts.")
        return
    metadata = {"kind": "observation", "entity": name, "entity_type": kind}
    for observation in observations or [f"is known as {kind}"]:
        yield item_of(
            where, content=f"{name}: {observation}", key=_key(name, observation), namespace=namespace, metadata=metadata
        )


def _key(name: str, text: str) -> str:
    """Return a key that is the same for the same observation, wherever it stands in the file."""
    return f"mcp/{name[:200]}/{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
