"""The MCP door: tools, resources and prompts over HTTP and stdio. Only this package knows the MCP SDK."""
