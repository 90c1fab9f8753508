"""Loading and running networks. Torch is imported only here and in the handlers."""
