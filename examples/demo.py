"""The main job on real input, start to end: `make demo`.

Starts the worker on a temporary folder, stores what a sales team's agents noted about their leads, retrieves with and
without filters, deletes one memory and shows that it is gone, restarts the worker and shows that everything else is
still there, and asks research questions. Prints what it does; exits 0 only if every step came out right.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

LEADS = Path(__file__).with_name("leads.jsonl")
START_S_MAX = 120
STOP_S_MAX = 30
SHOWN_MAX = 3


@contextlib.contextmanager
def worker(data_dir: Path) -> Iterator[httpx.Client]:
    """A running worker over a folder, and a client of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gateway.cli", "serve", "--data-dir", str(data_dir), "--port", str(port)]
    variables = {"LLM_FALLBACK": "extractive", **os.environ, "MEMORY_LOG_LEVEL": "error"}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=variables, cwd=LEADS.parents[1], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90) as client:
            _wait(client, process)
            say(f"worker ready at port {port} after {time.perf_counter() - started:.1f} s")
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_S_MAX)


def _wait(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/ping").status_code == httpx.codes.OK:
                return
        time.sleep(0.05)
    sys.exit("demo: the worker did not start; run `make serve` to see why")


def heading(text: str) -> None:
    """A step of the story."""
    print(f"\n== {text}")


def say(text: str, indent: str = "   ") -> None:
    """A line of the story, wrapped."""
    print(textwrap.fill(text, 110, initial_indent=indent, subsequent_indent=indent + "  "))


def expect(holds: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    """End the demo when a step did not come out right."""
    if not holds:
        sys.exit(f"demo: FAILED: {what}")


def call(client: httpx.Client, method: str, path: str, **request: Any) -> Any:
    """Return the body of a successful answer."""
    response = client.request(method, path, **request)
    expect(response.is_success, f"{method} {path} answered {response.status_code}: {response.text}")
    return response.json()


def retrieve(client: httpx.Client, query: str, namespace: str, k: int = 3, **filter: Any) -> list[dict[str, Any]]:
    """Ask, and print what comes back."""
    wanted = {"query": query, "namespace": namespace, "k": k} | ({"filter": filter} if filter else {})
    found = call(client, "POST", "/v1/memories/retrieve", json=wanted)
    say(f"? {query}   [{namespace}{', ' + json.dumps(filter) if filter else ''}]   {found['latency_ms']} ms")
    for memory in found["memories"][:SHOWN_MAX]:
        text = memory["content"].replace("\n", " ")
        say(f"{memory['score']:.2f}  {memory['key']}: {text[:150]}{'…' if len(text) > 150 else ''}", "     ")
    memories: list[dict[str, Any]] = found["memories"]
    return memories


def store_all(client: httpx.Client, memories: list[dict[str, Any]]) -> None:
    """Store the leads twice: the second time, as after a lost answer, nothing changes."""
    heading(f"Storing {len(memories)} memories of {LEADS.name} in one batch")
    started = time.perf_counter()
    first = call(client, "POST", "/v1/memories/batch", json={"memories": memories})
    say(f"{first['stored']} stored in {time.perf_counter() - started:.1f} s, each synced to disk before the answer")
    again = call(client, "POST", "/v1/memories/batch", json={"memories": memories})
    say(f"the same batch again: {again['unchanged']} unchanged")
    expect(first["stored"] == again["unchanged"] == len(memories), "all memories are stored once")


def ask(client: httpx.Client) -> None:
    """Retrieve by meaning, with filters, and across the walls between namespaces."""
    heading("Retrieving by meaning")
    hit = retrieve(client, "What does Priya Ramanathan like to drink?", "sales-emea")[0]
    expect("priya" in hit["key"], "the memory about Priya comes first")
    retrieve(client, "Who holds the only key to the spare network cabinet?", "sales-emea")
    say("(the answer is the last sentence of a long memory, beyond what the model reads at once)", "     ")

    heading("Retrieving with filters, which are applied before the search")
    budgets = retrieve(client, "How much money is there?", "sales-us", kind="budget")
    expect(all(memory["metadata"]["kind"] == "budget" for memory in budgets), "only budgets come back")
    important = {"agent": "closer", "importance": {"$gte": 0.9}}
    found = retrieve(client, "What matters most?", "sales-us", k=10, **important)
    expect(len(found) == 3, "exactly the three that match come back")

    heading("Namespaces are walls: the same key, another memory")
    for namespace in ("sales-emea", "sales-us"):
        memory = call(client, "GET", "/v1/memories/brightwater/2026-09-14/call-1", params={"namespace": namespace})
        say(f"{namespace}: {memory['content'][:120]}…")


def delete_one(client: httpx.Client) -> None:
    """Delete a memory and look for it everywhere."""
    heading("Deleting one memory")
    key, namespace = "olivar/2026-09-25/dinner Madrid", "sales-emea"
    question = "Who at the dinner in Madrid has an allergy?"
    expect(retrieve(client, question, namespace, k=1)[0]["key"] == key, "the memory is found before")
    deleted = call(client, "DELETE", f"/v1/memories/{key}", params={"namespace": namespace})
    say(f"DELETE {deleted['key']}: {deleted['status']}")
    found = retrieve(client, question, namespace, k=50)
    gone = client.get(f"/v1/memories/{key}", params={"namespace": namespace}).status_code
    expect(key not in [memory["key"] for memory in found] and gone == httpx.codes.NOT_FOUND, "it is gone everywhere")
    say(f"GET answers {gone}; it is not among all {len(found)} memories that retrieve still finds")


def research(client: httpx.Client) -> None:
    """Ask questions that need an answer rather than a list."""
    heading("Research: an answer with citations")
    for question, namespace in (
        ("What is Brightwater's budget for the first year, and who made the raise possible?", "sales-emea"),
        ("When does Pinecrest's contract with Gridloft renew, and by when must they give notice?", "sales-us"),
    ):
        answer = call(client, "POST", "/v1/research", json={"query": question, "namespace": namespace})
        say(f"? {question}")
        for line in answer["result"].splitlines():
            if line:
                say(line, "     ")
        sources = {citation["n"]: citation for citation in answer["citations"]}
        for n, citation in sources.items():
            say(f"[{n}] {citation['key']} ({citation['date']}, {citation['verdict']})", "       ")
        say(f"model: {answer['model']}, {answer['tokens_used']} tokens, {answer['latency_ms']} ms", "     ")
        expect(bool(answer["citations"]) and bool(answer["result"]), "the answer names its sources")


def main() -> None:
    """Tell the story."""
    memories = [json.loads(line) for line in LEADS.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory(prefix="vector-memory-demo-") as folder:
        data_dir = Path(folder) / "memory"
        heading("Starting the worker")
        with worker(data_dir) as client:
            store_all(client, memories)
            ask(client)
            delete_one(client)
        heading("Restarting the worker on the same folder")
        with worker(data_dir) as client:
            held = call(client, "GET", "/health")["memories"]
            say(f"{held} memories are there: all but the deleted one")
            expect(held == len(memories) - 1, "everything but the deleted memory is there")
            retrieve(client, "What does Priya Ramanathan like to drink?", "sales-emea", k=1)
            research(client)
    heading("Done: everything came out as it should")


if __name__ == "__main__":
    main()
