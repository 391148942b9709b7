"""Everything after the LLM has answered: sentences, citations, evidence, verdicts. This package calls no endpoint."""
