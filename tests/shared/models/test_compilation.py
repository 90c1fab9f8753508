"""Compiled blocks: switched on for jobs once they are ready, never compiled in a job, and left uncompiled after a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor, nn

from shared.models.compilation import CompiledBlocks, can_compile

WIDTHS = (4, 4, 8)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        return torch.relu(self.layer(values)) + values


class Net(nn.Module):
    """Blocks of two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(Block(width) for width in WIDTHS)

    def forward(self, rows: int) -> list[Tensor]:
        return [block(torch.ones(rows, block.layer.in_features)) for block in self.blocks]


class Backend:
    """A compiler that runs graphs as they are, and counts them and their calls."""

    def __init__(self, *, fails: type[Exception] | None = None) -> None:
        self.graphs = self.calls = 0
        self._fails = fails

    def __call__(self, graph: Any, _inputs: object) -> Callable[..., Any]:
        if self._fails is not None:
            raise self._fails("a secret of the compiler")
        self.graphs += 1

        def run(*values: Any) -> Any:
            self.calls += 1
            return graph(*values)

        return run


@pytest.fixture
def net() -> Iterator[Net]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield Net().requires_grad_(False).eval()
    torch._dynamo.reset()


def blocks_of(net: Net, backend: Backend, *rows: int) -> CompiledBlocks:
    return CompiledBlocks("net", net, ("Block",), [lambda each=each: net(each) for each in rows], backend=backend)  # type: ignore[misc]


def compile_all(blocks: CompiledBlocks) -> None:
    for piece in blocks.pieces():
        piece()


@torch.inference_mode()
def job(net: Net, blocks: CompiledBlocks, rows: int) -> bool:
    """Runs the network as a job does, and returns whether compiled blocks were used."""
    expected = net(rows)
    with blocks.enabled() as is_enabled:
        assert all(torch.equal(one, other) for one, other in zip(net(rows), expected, strict=True))
    assert all(block._compiled_call_impl is None for block in net.blocks)
    return is_enabled


def test_a_piece_compiles_the_blocks_of_one_shape(net: Net) -> None:
    backend = Backend()
    blocks = blocks_of(net, backend, 3)
    counts = []
    for piece in blocks.pieces():
        assert not blocks.is_ready
        piece()
        counts.append(backend.graphs)
    assert counts == [0, 1, 2], "the first one imports the compiler"
    assert blocks.is_ready


def test_jobs_run_uncompiled_until_all_blocks_are_ready(net: Net) -> None:
    backend = Backend()
    blocks = blocks_of(net, backend, 3)
    pieces = blocks.pieces()
    next(pieces)()
    next(pieces)()
    calls = backend.calls
    assert not job(net, blocks, 3)
    assert backend.calls == calls
    next(pieces)()
    assert job(net, blocks, 3)


def test_a_job_compiles_nothing_and_shapes_that_were_not_compiled_run_uncompiled(net: Net) -> None:
    backend = Backend()
    blocks = blocks_of(net, backend, 3)
    compile_all(blocks)
    for rows, compiled in ((3, len(WIDTHS)), (5, len(WIDTHS)), (1, 0)):  # torch treats 1 as a constant
        calls = backend.calls
        assert job(net, blocks, rows)
        assert backend.calls - calls == compiled
    assert backend.graphs == 2


def test_replaced_weights_use_the_same_graphs(net: Net) -> None:
    backend = Backend()
    blocks = blocks_of(net, backend, 3)
    compile_all(blocks)
    net.blocks[0].layer.weight = nn.Parameter(torch.zeros(4, 4), requires_grad=False)
    calls = backend.calls
    assert job(net, blocks, 3)
    assert (backend.calls - calls, backend.graphs) == (len(WIDTHS), 2)


def test_many_graphs_are_compiled(net: Net) -> None:
    """torch's own limit is 8 for the code that all blocks share."""
    nets = [Net().requires_grad_(False) for _ in range(12)]
    for index, each in enumerate(nets):
        each.blocks = nn.ModuleList([Block(16 + index)]).requires_grad_(False)
    backend = Backend()
    for each in nets:
        compile_all(blocks_of(each, backend, 3))
    assert backend.graphs == len(nets)


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyError])
def test_a_failure_leaves_the_blocks_uncompiled_with_one_warning(net: Net, error: type[Exception]) -> None:
    blocks = blocks_of(net, Backend(fails=error), 3, 5)
    with capture_logs() as lines:
        compile_all(blocks)
    (line,) = [line for line in lines if line["log_level"] != "debug"]
    assert (line["event"], line["log_level"], line["network"]) == ("compilation failed; blocks remain uncompiled", "warning", "net")
    assert "secret" not in str(line)
    assert not blocks.is_ready
    assert not job(net, blocks, 3)


def test_nothing_is_compiled_for_a_cpu() -> None:
    assert not can_compile(torch.device("cpu"))
