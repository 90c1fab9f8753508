"""The engines that generate text: transformers in this process, or an OpenAI-compatible inference server."""
