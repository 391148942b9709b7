"""Logs, metrics and traces. It observes calls and never decides about them."""
