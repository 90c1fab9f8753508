"""The engine in this process: many conversations, written together token by token (continuous batching)."""
