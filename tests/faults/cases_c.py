"""Faults of the GPU, of models and of the machine."""

from __future__ import annotations

from tests.faults.registry import fault
from tests.faults.world import World, sdxl, wan


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


@fault("F21", "`torch.OutOfMemoryError` while denoising, once and always", "once: completed, and the remedy named; always: `OOM_ERROR`")
def _(world: World) -> None:
    worker = world.worker()
    worker.sabotage("denoiser", "oom")
    output = world.do(sdxl("F21-once"))
    assert output["status"] == "completed"
    assert any("Memory did not suffice" in warning for warning in output["metadata"]["warnings"])
    worker.sabotage("denoiser", "oom", times=1000)
    output = world.do(sdxl("F21-always"))
    assert (output["metadata"]["error_code"], output["metadata"]["retryable"]) == ("OOM_ERROR", True)
    assert len(output["metadata"]["warnings"]) >= 2, "what was tried"


@fault("F22", "`torch.OutOfMemoryError` in the VAE alone", "decoded in tiles; nothing is denoised again", handlers=("wan",))
def _(world: World) -> None:
    for handler, job in (("sdxl", sdxl("F22-sdxl")), ("wan", wan("F22-wan"))):
        worker = world.worker(handler)
        worker.sabotage("decoder", "oom", times=2)
        before = worker.calls("denoiser")
        output = world.do(job, handler=handler)
        assert output["status"] == "completed"
        assert any("in tiles" in warning for warning in output["metadata"]["warnings"])
        samples = 2 if handler == "wan" else 1  # WAN's guidance is a call of its own
        assert worker.calls("denoiser") - before == samples * output["assets"][0]["metadata"]["steps"]


@fault(
    "F25", "Latents that are NaN; a decoder that draws NaN, or one colour", "`GENERATION_ERROR`, never a black picture", handlers=("wan",)
)
def _(world: World) -> None:
    for handler, make in (("sdxl", sdxl), ("wan", wan)):
        for index, (where, what) in enumerate((("denoiser result", "nan"), ("decoder result", "nan"), ("decoder result", "black"))):
            world.worker(handler).sabotage(where, what, times=100)
            output = world.do(make(f"F25-{handler}-{index}"), handler=handler)
            assert (output["metadata"]["error_code"], output["metadata"]["retryable"]) == ("GENERATION_ERROR", True)
            assert output["assets"] == []
            world.calm()
