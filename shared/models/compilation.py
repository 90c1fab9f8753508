"""Regional compilation: a network's repeated blocks are compiled while the worker is idle, and jobs use them once all are ready.

Jobs never wait for the compiler. A shape that was not compiled in advance runs uncompiled.
https://docs.pytorch.org/tutorials/recipes/regional_compilation.html
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import torch
from torch import nn

from shared.errors import classify
from shared.telemetry import logger

_SINCE = (8, 0)  # compute capability: Triton's kernels for half precision need Ampere's tensor cores to gain anything

# torch counts graphs per code object, and all blocks of all networks share one. After its default of 8 it would compile nothing more.
_RECOMPILE_LIMIT = 64


def can_compile(device: torch.device) -> bool:
    """Returns whether networks on a device are worth compiling, and torch can do so.

    It needs a GPU since Ampere, Triton, and for Triton's launchers a C compiler and Python's headers.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _SINCE:
        return False
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return find_spec("triton") is not None and any(which(name) for name in ("gcc", "clang")) and headers.is_file()


def _import_compiler() -> None:
    """Imports what torch imports when it compiles for the first time, which takes seconds."""
    import torch._inductor.compile_fx  # noqa: F401


class CompiledBlocks:
    """The repeated blocks of one network, with a compiled form that a job can switch on.

    Only the blocks' calls are replaced: no module is wrapped, so that names, LoRAs and moves between devices work as before. torch caches
    compiled code by the blocks' code and shapes, which all blocks of the same shapes share, also when weights have been replaced.

    Args:
        name: The network's name in log lines.
        network: The network, in evaluation mode.
        kinds: The class names of the blocks.
        calls: Each calls the network once, as jobs do: together they have every shape that is worth compiling. In a call only a batch of 1
            differs from other sizes.
        backend: torch's compiler.
    """

    def __init__(
        self, name: str, network: nn.Module, kinds: Collection[str], calls: Sequence[Callable[[], object]], *, backend: Any = "inductor"
    ) -> None:
        self._name = name
        self._blocks = [module for module in network.modules() if type(module).__name__ in kinds]
        self._calls = calls
        self._backend = backend
        self._compiled: dict[nn.Module, Callable[..., Any]] = {}
        self._remaining = len(self._groups())
        self._failed = False

    @property
    def is_ready(self) -> bool:
        """Whether every block is compiled for the first call."""
        return self._remaining <= 0 and not self._failed

    def pieces(self) -> Iterator[Callable[[], None]]:
        """Yields the work of compiling in pieces: the blocks of one shape for one call of the network, which is one graph, seldom two.

        Failures are logged once; the blocks then remain uncompiled.
        """
        yield _import_compiler
        for call in self._calls:
            for blocks in self._groups():
                yield partial(self._compile, blocks, call)

    @contextmanager
    def enabled(self) -> Iterator[bool]:
        """Runs the blocks compiled while the body runs, if they are ready. What would have to be compiled first runs uncompiled.

        Yields:
            Whether they are ready.
        """
        if not self.is_ready:
            yield False
            return
        with self._switched_on(self._blocks), torch.compiler.set_stance("eager_on_recompile"):
            yield True

    def _groups(self) -> list[list[nn.Module]]:
        """The blocks by their shapes: each group needs a graph of its own."""
        groups: dict[tuple[object, ...], list[nn.Module]] = {}
        for block in self._blocks:
            shapes = tuple((name, tensor.shape) for name, tensor in block.named_parameters())
            groups.setdefault((type(block), shapes), []).append(block)
        return list(groups.values())

    def _compile(self, blocks: Sequence[nn.Module], call: Callable[[], object]) -> None:
        if self._failed:
            return
        limit = torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT)
        try:
            with torch.inference_mode(), limit, self._switched_on(blocks):
                call()
        except (RuntimeError, OSError) as error:
            if classify(error, "").replaces_worker:
                raise
            self._failed = True
            logger().warning("compilation failed; blocks remain uncompiled", network=self._name, error=type(error).__name__)
            logger().debug("compilation failed", network=self._name, exc_info=error)
        else:
            self._remaining -= 1
            if self._remaining == 0:
                logger().info("compiled", network=self._name, blocks=len(self._blocks))

    @contextmanager
    def _switched_on(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        try:
            for block in blocks:
                block._compiled_call_impl = self._compiled_call(block)
            yield
        finally:
            for block in blocks:
                block._compiled_call_impl = None

    def _compiled_call(self, block: nn.Module) -> Callable[..., Any]:
        if block not in self._compiled:
            self._compiled[block] = torch.compile(block._call_impl, dynamic=True, backend=self._backend)
        return self._compiled[block]
