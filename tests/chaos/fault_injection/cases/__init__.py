"""The cases, one module per group. Importing this package registers all of them."""

from tests.chaos.fault_injection.cases import callbacks, inputs, machine, references, repeated, s3, storage
from tests.chaos.fault_injection.registry import CASES

__all__ = ["CASES", "callbacks", "inputs", "machine", "references", "repeated", "s3", "storage"]
