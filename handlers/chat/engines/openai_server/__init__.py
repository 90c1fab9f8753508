"""The inference engine that delegates to an OpenAI-compatible server on this machine, such as vLLM."""
