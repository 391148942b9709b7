"""Measures how soon `vector-memory mcp` answers after its start: the handshake, the list of tools, the first call.

    python -m benchmarks.mcp_start [RUNS]

Each run is a fresh process over an empty folder. The output has medians and the slowest run, in milliseconds.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = 7
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
STORE = {"name": "store_memory", "arguments": {"content": "Dana drinks an oat flat white."}}
REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("initialize", INITIALIZE),
    ("tools/list", {}),
    ("tools/call", STORE),
)


def main() -> None:
    """Measure and print the figures."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    taken = [_run() for _ in range(runs)]
    for (method, _), each in zip(REQUESTS, zip(*taken, strict=True), strict=True):
        print(f"{method:12} {statistics.median(each):6.0f} ms, slowest {max(each):6.0f} ms")


def _run() -> list[float]:
    """Start a process and return the milliseconds from its start to each answer."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gateway", "mcp", "--data-dir", str(Path(folder, "memory"))]
        started = time.perf_counter()
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            taken = []
            for id, (method, params) in enumerate(REQUESTS):
                message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                assert "result" in answer, answer
                taken.append((time.perf_counter() - started) * 1000)
            process.stdin.close()
        return taken


if __name__ == "__main__":
    main()
