"""WAN: video, and images of one frame."""
