"""The tools that agents call: our own, and the tools of other packages. This package does not know MCP or HTTP."""
