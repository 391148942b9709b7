"""Everything before the LLM is asked: recall, packing, budget and prompt. This package calls no endpoint."""
