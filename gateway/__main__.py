"""The `vector-memory` command. What greets an MCP client starts before the imports of the command line."""

import sys

from gateway.mcp import greeting


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["mcp"] and "--help" not in sys.argv:
        greeting.front()
    from gateway.cli import app

    app()


if __name__ == "__main__":
    main()
