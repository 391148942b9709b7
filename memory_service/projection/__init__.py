"""What is derived from the journal: catalog, snapshots, recovery and compaction. It never decides what is stored."""
