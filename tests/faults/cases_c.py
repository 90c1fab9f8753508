"""Faults of the GPU, of models and of the machine."""

from __future__ import annotations

from tests.faults.registry import fault
from tests.faults.world import World, sdxl


@fault(
    "F23", "The GPU is lost: illegal access, ECC, launch failure, each as torch's error and as a text", "answered; the worker ends with 1"
)
def _(world: World) -> None:
    for index, what in enumerate(("illegal access", "ecc", "launch failure", "lost by text")):
        with world.own_worker("paint") as worker:
            worker.sabotage("denoiser", what)
            output = worker.do(sdxl(f"F23-{index}"))
            assert output["metadata"]["error_code"] == "DEVICE_ERROR"
            assert worker.done[-1].body["stopPod"] is True
            worker.gateway.submit(sdxl(f"F23-{index}-for-another"))
            assert worker.process.wait() == 1
            assert worker.gateway.results(f"F23-{index}-for-another") == []
