"""The OpenAI-compatible door: chat completions, embeddings and models, in OpenAI's own shapes."""
