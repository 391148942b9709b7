"""The Python client: one interface over HTTP, over a RunPod endpoint, and over a service in this process."""
