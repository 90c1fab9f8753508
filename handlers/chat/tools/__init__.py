"""Tools: their definitions in requests, and the calls in completions."""
