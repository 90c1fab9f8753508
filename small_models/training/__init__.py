"""What the small SDXL that follows its prompts is made of: pictures, captions, networks, training."""
