"""The small WAN: clips of one figure that moves, and the networks that learn to make them."""
