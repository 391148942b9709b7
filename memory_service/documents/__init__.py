"""Documents: read, cut into chunks, kept as ordinary memories. Above `MemoryService`, which knows nothing of them."""
