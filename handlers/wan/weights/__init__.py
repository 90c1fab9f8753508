"""Loads WAN's weights: the text-to-video, VACE and image-to-video pipelines."""
