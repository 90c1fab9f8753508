"""GpuThread runs one piece of work at a time; after the GPU is lost, all queued and new work fails with `DeviceError`."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from shared.errors import DeviceError
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.execution.gpu import GpuThread


def device_error() -> torch.AcceleratorError:
    """The error that torch raises for a lost context."""
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    error.error_code = 700  # type: ignore[attr-defined]  # torch sets it when it raises
    return error


def test_queued_work_fails_when_the_gpu_is_lost() -> None:
    both_queued, second_ran = threading.Event(), threading.Event()

    def lose_the_gpu() -> None:
        both_queued.wait(60)
        raise device_error()

    async def run_both(gpu: GpuThread) -> tuple[BaseException | None, BaseException | None]:
        first = asyncio.ensure_future(gpu.run(lose_the_gpu, CancelToken(60)))
        second = asyncio.ensure_future(gpu.run(second_ran.set, CancelToken(60)))
        await asyncio.sleep(0)
        both_queued.set()
        return await asyncio.gather(first, second, return_exceptions=True)

    with GpuThread() as gpu:
        first, second = asyncio.run(run_both(gpu))
        assert gpu.is_lost
    assert isinstance(first, torch.AcceleratorError)
    assert isinstance(second, DeviceError)
    assert second.retryable
    assert not second_ran.is_set()


def test_lost_gpu_refuses_new_work() -> None:
    with GpuThread() as gpu:
        gpu.mark_lost()
        with pytest.raises(DeviceError):
            asyncio.run(gpu.run(lambda: None, CancelToken(60)))


def test_ordinary_error_does_not_lose_the_gpu() -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with GpuThread() as gpu:
        with pytest.raises(RuntimeError, match="mat1"):
            asyncio.run(gpu.run(fail, CancelToken(60)))
        assert not gpu.is_lost
