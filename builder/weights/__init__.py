"""Converts and writes weights."""
