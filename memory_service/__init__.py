"""Memories: kept in a journal, projected into a catalog and vector indexes, served by `service.MemoryService`."""
