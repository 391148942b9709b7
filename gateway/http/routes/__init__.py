"""The HTTP routes, one module per subject. A route translates a request and holds no domain rule."""
