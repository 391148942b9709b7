"""Memories on their way out of a service and into another, and in from what other programs keep.

All of it goes through the client, so that it works on a folder, a service and an endpoint alike.
"""
