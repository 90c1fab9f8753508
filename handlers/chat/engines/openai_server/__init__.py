"""The engine that calls an OpenAI-compatible inference server on this machine, such as vLLM."""
