"""What the real worker costs, as ratios to the bare embedding model on the same machine in the same run."""
