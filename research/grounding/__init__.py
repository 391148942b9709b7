"""Everything after the model: claims, citations, evidence and verdicts. It does not know an endpoint."""
