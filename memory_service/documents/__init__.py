"""Reads documents, cuts them into chunks and keeps these as ordinary memories.

The package stands above `MemoryService`, which knows nothing of documents.
"""
