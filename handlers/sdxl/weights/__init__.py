"""Loads SDXL's weights: diffusers folders, single-file checkpoints, VAEs and IP-Adapters."""
