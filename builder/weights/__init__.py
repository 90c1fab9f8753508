"""Weights: installing a custom checkpoint, and converting published formats to those that a worker loads."""
