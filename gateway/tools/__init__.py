"""The tools that agents call, ours and those of other packages. It does not know MCP or HTTP."""
