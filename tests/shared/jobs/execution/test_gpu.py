"""One thread owns the GPU, until the GPU is lost. Then nobody gets it any more, and everybody is told."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from shared.errors import DeviceError
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread


def lost() -> torch.AcceleratorError:
    """As torch raises it."""
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    error.error_code = 700  # type: ignore[attr-defined]  # torch sets it where it is raised
    return error


def test_queued_work_fails_when_the_gpu_is_lost() -> None:
    waits, begun = threading.Event(), threading.Event()

    def losing() -> None:
        waits.wait(10)
        raise lost()

    async def both(gpu: GpuThread) -> tuple[BaseException | None, BaseException | None]:
        first = asyncio.ensure_future(gpu.run(losing, CancelToken(60)))
        second = asyncio.ensure_future(gpu.run(begun.set, CancelToken(60)))
        await asyncio.sleep(0)
        waits.set()
        return await asyncio.gather(first, second, return_exceptions=True)

    with GpuThread() as gpu:
        first, second = asyncio.run(both(gpu))
        assert gpu.is_lost
    assert isinstance(first, torch.AcceleratorError)
    assert isinstance(second, DeviceError)
    assert second.retryable
    assert not begun.is_set()


def test_lost_gpu_refuses_new_work() -> None:
    with GpuThread() as gpu:
        gpu.mark_lost()
        with pytest.raises(DeviceError):
            asyncio.run(gpu.run(lambda: None, CancelToken(60)))


def test_ordinary_error_does_not_lose_the_gpu() -> None:
    def failing() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with GpuThread() as gpu:
        with pytest.raises(RuntimeError, match="mat1"):
            asyncio.run(gpu.run(failing, CancelToken(60)))
        assert not gpu.is_lost
