"""What a caller sends and what it gets back: pydantic only."""
