"""The write path: plan a group of changes, append it with one sync, apply it. It does not know who called."""
