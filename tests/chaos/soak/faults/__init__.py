"""The faults that a soak test injects: those of `fault_injection` that can meet any job. Importing this package registers all of them."""

from tests.chaos.soak.faults import requests, worker

from tests.chaos.soak.faults import delivery, hostile  # isort: skip  # a seed selects faults by the order of their registration
from tests.chaos.soak.scenario import SOAK_FAULTS

__all__ = ["SOAK_FAULTS", "delivery", "hostile", "requests", "worker"]
