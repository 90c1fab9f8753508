"""Tiny models with random weights in the real architectures and file layouts, one module per family."""
