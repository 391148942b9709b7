"""The OpenAI-compatible door. It serves chat completions, embeddings and models in OpenAI's own shapes."""
