"""Importing this package registers all hostile inputs."""

from __future__ import annotations

from tests.chaos.hostile_inputs.inputs import hosts, pictures, requests, schemas
from tests.chaos.hostile_inputs.registry import HOSTILE_INPUTS

__all__ = ["HOSTILE_INPUTS", "hosts", "pictures", "requests", "schemas"]
