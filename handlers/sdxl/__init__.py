"""The SDXL endpoint: images."""
