"""Commands for developers: build the model graph, measure the house, run the MCP conformance suite."""
