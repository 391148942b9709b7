"""Arrays in, neighbours out. Knows FAISS and numpy, and nothing of memories."""
