"""The OpenAI-compatible form of chat requests and responses."""
