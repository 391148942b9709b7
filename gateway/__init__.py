"""Everything that faces a caller: HTTP, RunPod jobs, the command line; and the root that puts the parts together."""
