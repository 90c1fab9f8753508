"""Add-ons for the small SDXL: a LoRA, an IP-Adapter with its image encoder, and a ControlNet."""
