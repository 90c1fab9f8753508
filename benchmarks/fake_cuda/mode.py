"""The dispatch mode of the fake CUDA device: decides for each operation whether it runs really, on fake tensors, or is a wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.fake_cuda.checks import check_operands, is_on_device
from benchmarks.fake_cuda.counts import Counts, Wait, calling_lines
from benchmarks.fake_cuda.device_guard import register_device_guard
from benchmarks.fake_cuda.host_values import follow_values, host_values, known_values
from benchmarks.fake_cuda.memory import MemoryMeter
from benchmarks.fake_cuda.patches import patches

aten = torch.ops.aten

_IN_PLACE_RANDOM = (aten.uniform_.default, aten.normal_.default, aten.random_.default)
_SCALAR_READS = (aten._local_scalar_dense.default, aten.item.default)
_COMPARISONS = (aten.equal.default, aten.is_nonzero.default)
_SIZE_FROM_VALUES = (aten.nonzero.default, aten.masked_select.default, aten._unique2.default)
_INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
# torch's own kernel, and not the decomposition in Python that some operations also have, with temporaries that CUDA does not need.
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_CUDA_KERNELS = (aten._fused_rms_norm.default,)  # composite elsewhere, one kernel on CUDA
_LAUNCH_NOTHING = ("empty", "_unsafe_view", "detach", "lift_fresh")


class FakeCuda(TorchDispatchMode):
    """A CUDA device whose tensors have no values. Entered as a context manager, in every thread that uses it.

    Args:
        total: Its memory in bytes; more raises `torch.OutOfMemoryError`.
        capability: Its compute capability.

    Attributes:
        counts: What was asked of it.
        memory: Its memory.
        phase: The name under which operations are counted.
    """

    def __init__(self, *, total: int = 48 * 2**30, capability: tuple[int, int] = (8, 9)) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's class is partly typed
        self.capability = capability
        self.counts = Counts()
        self.memory = MemoryMeter(total)
        self.phase = "load"
        # Below this mode on the stack: torch then does not try to initialise CUDA.
        self._fake: Any = FakeTensorMode(allow_non_fake_inputs=True)
        self._lock, self._entered = threading.Lock(), 0
        self._patches = ExitStack()
        self._moving = 0

    def reset(self, phase: str = "prepare") -> None:
        """Forgets all counts and peaks, and starts a phase."""
        self.counts = Counts()
        self.memory.reset()
        self.phase = phase

    @contextmanager
    def moving_networks(self) -> Iterator[None]:
        """Leaves tensors that are copied to the host while the body runs without values: only their place matters."""
        self._moving += 1
        try:
            yield
        finally:
            self._moving -= 1

    def __enter__(self) -> Self:
        register_device_guard()
        with self._lock:
            if not self._entered:
                logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # it logs every error that it raises
                for patch in patches(self):
                    self._patches.enter_context(patch)
            self._entered += 1
        self._fake.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's class is partly typed
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch's class is partly typed
        self._fake.__exit__(*error)
        with self._lock:
            self._entered -= 1
            if not self._entered:
                self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device") or next((each for each in args if isinstance(each, torch.device)), None)
        if FakeTensor not in types and (device is None or torch.device(device).type != "cuda"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func in _IN_PLACE_RANDOM or (func is aten.dropout.default and not args[2]):
            return args[0]  # without values there is nothing to draw; a decomposed dropout would copy
        if func in _SCALAR_READS or func in _COMPARISONS:
            return self._read_scalar(func, args)
        if func in _SIZE_FROM_VALUES:
            return self._with_assumed_size(func, args[0])
        if (copied := self._copy(func, args, kwargs, device)) is not None:
            return copied
        if func in _INDEXING:
            args = (args[0], [self._index(index) for index in args[1]], *args[2:])
        if _is_composite(func):  # arrives whole in inference mode
            return self._reentered(func._op_dk, _COMPOSITE, *args, **kwargs)
        return self._launch(func, args, kwargs)

    # Waits

    def _wait(self, kind: str, tensor: Tensor) -> None:
        shape = " × ".join(str(size) for size in tensor.shape) or "1"
        wait = Wait(kind, *calling_lines(), f"{str(tensor.dtype).removeprefix('torch.')} {shape}")
        self.counts.waits[self.phase, wait] += 1

    def _read_scalar(self, func: Any, args: Any) -> Any:
        """The scalar if its value is known, or else a plausible one: 1, or true."""
        self._wait("item" if func in _SCALAR_READS else func._overloadpacket.__name__, args[0])
        if all(known_values(each) is not None for each in args if isinstance(each, Tensor)):
            with unset_fake_temporarily():
                return func(*(known_values(each) if isinstance(each, Tensor) else each for each in args))
        if func in _COMPARISONS or args[0].dtype == torch.bool:
            return True
        return 1.0 if args[0].is_floating_point() else 1

    def _with_assumed_size(self, func: Any, tensor: Tensor) -> Tensor:
        """A result of the known values, or else as if half of them were selected."""
        self._wait(func._overloadpacket.__name__, tensor)
        if func is aten.nonzero.default and (values := known_values(tensor)) is not None:
            with unset_fake_temporarily():
                found = func(values)
            with self.moving_networks():
                copied: Tensor = self._reentered(aten._to_copy.default, found, device=tensor.device)
                return copied
        count = max(1, tensor.numel() // 2)
        if func is aten.nonzero.default:
            return torch.zeros((count, tensor.dim()), dtype=torch.long, device=tensor.device)
        return torch.empty((count,), dtype=tensor.dtype, device=tensor.device)

    def _copy(self, func: Any, args: Any, kwargs: Any, device: Any) -> Any:
        """Counts a copy between host and device. Returns the result of one to the host, which has real values; else None."""
        if func is aten._to_copy.default:
            source, blocking = args[0], not kwargs.get("non_blocking")
            to_host = is_on_device(source) and device is not None and torch.device(device).type == "cpu"
            if not is_on_device(source) and device is not None:
                self._upload(source, blocking=blocking)
            return self._download(func, args, kwargs) if to_host else None
        if func is aten.copy_.default and is_on_device(args[0]) != is_on_device(args[1]):
            if is_on_device(args[0]):
                self._upload(args[1], blocking=len(args) < 3 or not args[2])
                return None
            self._count_download(args[1], blocking=len(args) < 3 or not args[2])
            with unset_fake_temporarily():
                return args[0].copy_(host_values(args[1]))
        return None

    def _upload(self, source: Tensor, *, blocking: bool) -> None:
        self.counts.copied["host to device"] += source.nbytes
        if blocking and not self._moving:
            self._wait("host to device", source)

    def _download(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self._moving:
            self.counts.copied["device to host"] += args[0].nbytes
            return func(*args, **kwargs)
        self._count_download(args[0], blocking=not kwargs.get("non_blocking"))
        with unset_fake_temporarily():
            values = host_values(args[0])
            return values.to(kwargs.get("dtype") or values.dtype)

    def _count_download(self, source: Tensor, *, blocking: bool) -> None:
        self.counts.copied["device to host"] += source.nbytes
        if blocking:
            self._wait("device to host", source)

    def _index(self, index: Tensor | None) -> Tensor | None:
        if index is None:
            return None
        if index.dtype in (torch.bool, torch.uint8):
            self._wait("boolean index", index)
            return torch.zeros(max(1, index.shape[0] // 2), dtype=torch.long, device="cuda:0") if index.dim() == 1 else index
        if not is_on_device(index):
            self._wait("index from the host", index)
            return torch.empty(index.shape, dtype=index.dtype, device="cuda:0")
        return index

    # Kernels

    def _reentered(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a function whose operations come back to this mode."""
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's class is partly typed
        try:
            return func(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]  # torch's class is partly typed

    def _launch(self, func: Any, args: Any, kwargs: Any) -> Any:
        operands = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(is_on_device(operand) for operand in operands):
            check_operands(func._overloadpacket.__name__, operands)
        result = func(*args, **kwargs)
        results = [each for each in tree_leaves(result) if isinstance(each, FakeTensor)]
        if _launches(func):
            self.counts.kernels[self.phase] += 1
            self.counts.traffic[self.phase] += sum(tensor.numel() * tensor.element_size() for tensor in (*operands, *results))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.counts.flops[self.phase, str(operands[0].dtype).removeprefix("torch.")] += count(*args, **kwargs, out_val=result)
        follow_values(func, args, kwargs, operands, results)
        for tensor in results:
            if is_on_device(tensor):
                self.memory.hold(tensor, self.phase)
        return result


@cache
def _is_composite(func: Any) -> bool:
    if func._overloadpacket in flop_registry or func in _CUDA_KERNELS or func._schema.name.startswith(("prim::", "prims::")):
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


@cache
def _launches(func: Any) -> bool:
    """Whether an operation launches a kernel: it is not a view."""
    is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
    return not is_view and not any(part in func._schema.name for part in _LAUNCH_NOTHING)
