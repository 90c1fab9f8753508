"""Structured outputs: JSON Schemas are checked, translated for constrained decoding and enforced, with bounded work."""
