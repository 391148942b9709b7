"""The LLM's endpoints: calls, streaming, retries, breakers, deadlines and cost. This package knows no memories."""
