"""The composition root: it loads the services, puts the doors together and runs the server."""
