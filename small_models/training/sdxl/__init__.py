"""The small SDXL: a text-to-image model of plain figures."""
