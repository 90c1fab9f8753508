"""Container images and the listing on RunPod's Hub."""
