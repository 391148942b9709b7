"""The HTTP routes, one module for each subject. A route translates a request and holds no domain rule."""
