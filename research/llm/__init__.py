"""The model's endpoints: calls, streaming, retries, breakers, deadlines and cost. It does not know memories."""
