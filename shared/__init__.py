"""What every handler uses and no handler owns."""
