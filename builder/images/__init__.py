"""Builds container images and the Hub listing."""
