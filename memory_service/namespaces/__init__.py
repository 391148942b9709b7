"""What one namespace is searched by: vectors, words and structure, and which of them are in RAM.

It does not know the data folder or the journal.
"""
