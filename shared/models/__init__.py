"""Live networks. Torch lives here and in the handlers."""
