"""The append-only truth: frames, files, records and the data folder. It does not know the catalog or an index."""
