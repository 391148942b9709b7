"""Measures what the real worker costs, as ratios to the bare embedding model on the same machine in the same run.

`quality` measures something else: how well the right memories are found.
"""
