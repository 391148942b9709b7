"""Long-term memory for AI agents: the Python client, its request and answer types, and its errors.

    from vector_memory import Client

    with Client("http://127.0.0.1:8000") as memories:
        memories.store("Dana drinks an oat flat white.", key="dana/coffee")
        print(memories.retrieve("what does Dana drink?").hits[0].content)

This package imports nothing of the service and needs httpx and pydantic only.
"""
