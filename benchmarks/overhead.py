"""Measures what research adds to the model's own time. `python -m benchmarks.overhead --texts FILE` takes a minute.

A server that answers at once stands in for the model. So all the measured time is ours: retrieving, packing, the
prompt, the SDK, verifying the citations. The same server is also asked directly, for comparison.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks import prefilled, texts
from benchmarks.bare_model import BareModel
from benchmarks.figures import Latencies, Table, latencies, ms, rendered
from benchmarks.http_client import Client
from benchmarks.service_process import ServiceProcess
from memory_service.embedding.minilm import MiniLM

EMBEDDED = 1_000
QUESTIONS = 100
MODEL = "stand-in"

ANSWERS = {
    "one sentence, quoted": "{first} [1]",
    "one sentence, in other words": "It is said there that {words} and so on [1].",
    "five sentences, in other words": " ".join(
        f"They tell us ({n}) that {{words}} and so on [{n}]." for n in range(1, 6)
    ),
    "no citation": "The memories do not tell.",
}


class _StandIn(BaseHTTPRequestHandler):
    """Answers a chat completion at once. The benchmark sets the answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; waiting between them would be measured
    said = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.path.endswith("/chat/completions"):
            self._send(404, "application/json", b"{}")
        elif body.get("stream"):
            pieces = [{"delta": {"content": type(self).said}}, {"delta": {}, "finish_reason": "stop"}]
            events = [f"data: {json.dumps({'model': MODEL, 'choices': [piece]})}\n\n" for piece in pieces]
            self._send(200, "text/event-stream", "".join([*events, "data: [DONE]\n\n"]).encode())
        else:
            choice = {"message": {"role": "assistant", "content": type(self).said}, "finish_reason": "stop"}
            self._send(200, "application/json", json.dumps({"model": MODEL, "choices": [choice]}).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing on the terminal."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, metavar="FILE", help="lines to store; default: made from the examples")
    parser.add_argument("--memories", type=int, default=10_000, metavar="N")
    arguments = parser.parse_args()
    found = (
        texts.from_file(arguments.texts, arguments.memories) if arguments.texts else texts.synthetic(arguments.memories)
    )
    model = BareModel()
    embedded = model.embed_all(found.lines[:EMBEDDED])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        filled = prefilled.write(Path(folder) / "p", found.lines, embedded, MiniLM.load().fingerprint)
        settings = {
            "LLM_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
            "LLM_MIN_RELEVANCE": "0",
        }
        with ServiceProcess(filled.path, settings=settings) as service, Client(service.ready_port()) as client:
            print(rendered(_measured(client, service.ready_port(), server.server_port, found.lines)))
    server.shutdown()


def _measured(client: Client, port: int, llm_port: int, lines: Sequence[str]) -> Table:
    rows = []
    for name, template in ANSWERS.items():
        whole: list[float] = []
        first: list[float] = []
        bare: list[float] = []
        for at in range(QUESTIONS):
            line = lines[at]
            words = " ".join(line.split()[2:14])
            _StandIn.said = template.format(first=line.split(". ")[0], words=words)
            question = {"query": " ".join(line.split()[:8]), "k": 8}
            answer = client.post("/v1/research", question)
            assert answer.json()["model"] == MODEL
            whole.append(answer.took_s)
            first.append(_first_token_s(port, question))
            bare.append(_bare_s(llm_port))
        rows.append((name, *(_p50_p99(sample) for sample in (whole, first, bare))))
    return Table(
        f"Research over {len(lines)} memories, a model that answers at once ({QUESTIONS} questions a row)",
        ("what the model says", "whole answer p50 / p99 ms", "first token p50 / p99 ms", "the stand-in itself"),
        tuple(rows),
        ("Whole answers include verifying the citations; the first token is that of a stream, before any verdict.",),
    )


def _p50_p99(sample: Sequence[float]) -> str:
    found: Latencies = latencies(sample)
    return f"{ms(found.p50_ms)} / {ms(found.p99_ms)}"


def _first_token_s(port: int, question: dict[str, Any]) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({**question, "stream": True})
    connection.connect()
    started = time.perf_counter()
    connection.request("POST", "/v1/research", body, {"content-type": "application/json"})
    response = connection.getresponse()
    while (line := response.readline()) and not line.startswith(b"event: token"):
        pass
    took_s = time.perf_counter() - started
    connection.close()
    return took_s


def _bare_s(port: int) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    started = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", "{}", {"content-type": "application/json"})
    connection.getresponse().read()
    took_s = time.perf_counter() - started
    connection.close()
    return took_s


if __name__ == "__main__":
    main()
