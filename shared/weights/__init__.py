"""Weights as data, and where they lie."""
