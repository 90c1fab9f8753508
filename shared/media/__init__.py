"""Decoding and encoding of images and videos."""
