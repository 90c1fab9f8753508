"""A simulation of a RunPod endpoint: what a load costs and how long its jobs wait."""
