"""The write path: prepare requests, plan a group, append it with one sync, apply it. It does not know who called."""
