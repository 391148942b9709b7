"""Everything before the model: recall, packing, budget and prompt. It does not know an endpoint."""
