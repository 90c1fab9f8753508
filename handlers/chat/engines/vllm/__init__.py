"""The inference engine that runs vLLM: its own server for each model, in an environment of its own, as a child process."""
