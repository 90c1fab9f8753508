"""The small models, one module for each family: the real architectures with random weights."""
