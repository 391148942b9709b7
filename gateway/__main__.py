"""The `vector-memory` command. The handshake with an MCP client starts before the command line is imported."""

import sys

from gateway.mcp import greeting


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["mcp"] and "--help" not in sys.argv:
        # The front answers the handshake in a thread, while the slow imports below run.
        greeting.front()
    from gateway.cli import app

    app()


if __name__ == "__main__":
    main()
