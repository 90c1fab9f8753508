"""The in-process inference engine: continuous batching of transformers models."""
