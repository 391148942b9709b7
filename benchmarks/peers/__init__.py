"""Compares the service with stores that people use for the same job, on one machine, in one run, with the same data.

All of them use the same model. Each peer lives in a virtual environment of its own (`environments.py`) and runs as a
process that speaks JSON lines (`runner.py`, `*_store.py`); the project depends on none of them. `python -m
benchmarks.peers --help`.
"""
