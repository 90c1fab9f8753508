"""Run while building, never while serving."""
