"""Benchmarks. Each measures this worker against a baseline in the same run."""
