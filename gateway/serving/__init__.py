"""The composition root: it builds the services, puts the doors together and runs the server."""
