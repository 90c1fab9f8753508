"""Modules that every handler or at least two of them use."""
