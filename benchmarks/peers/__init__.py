"""The service beside others that people use for the same: one machine, one run, the same data, the same model.

Each peer lives in a virtual environment of its own (`environments.py`) and runs as a process that speaks JSON lines
(`runner.py`, `*_store.py`); the project depends on none of them. `python -m benchmarks.peers --help`.
"""
