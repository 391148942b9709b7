"""The HTTP door: FastAPI routes, middleware, statuses and uploads. It knows HTTP and no domain rule."""
