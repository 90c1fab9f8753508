"""SDXL: images."""
