"""Loads WAN's weights: text-to-video, VACE and image-to-video pipelines."""
