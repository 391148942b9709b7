"""Texts in, vectors out: the embedder interface, its models, windows and the queue. It does not know memories."""
