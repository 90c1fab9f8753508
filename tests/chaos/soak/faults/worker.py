"""Faults of the device and the machine, and what RunPod does to jobs and workers."""

from __future__ import annotations

import signal
from typing import Any

from tests.chaos.fault_injection.cases.machine import UNUSABLE_ADAPTERS, filled_disk, unusable_adapters
from tests.chaos.soak.scenario import CANCELLED, COMPLETED, DIFFUSION, KILLED, Scenario, soak_fault


@soak_fault("F21", COMPLETED, "OOM_ERROR", weight=2)
def out_of_memory_once(scenario: Scenario) -> None:
    scenario.worker.inject(scenario.network, "oom")


@soak_fault("F21", "OOM_ERROR")
def out_of_memory_always(scenario: Scenario) -> None:
    scenario.worker.inject(scenario.network, "oom", times=1000)


@soak_fault("F22", COMPLETED, handlers=DIFFUSION, weight=2)
def out_of_memory_in_the_decoder(scenario: Scenario) -> None:
    scenario.worker.inject("decoder", "oom", times=2)


@soak_fault("F25", "GENERATION_ERROR", handlers=DIFFUSION, weight=2)
def unusable_output(scenario: Scenario) -> None:
    target, fault = scenario.rng.choice((("denoiser result", "nan"), ("decoder result", "nan"), ("decoder result", "black")))
    scenario.worker.inject(target, fault, times=1000)


@soak_fault("F26", "INTERNAL_ERROR", handlers=("wan",), weight=2)
def full_disk(scenario: Scenario) -> None:
    scenario.configure(frames=6)
    scenario.cleanup.enter_context(filled_disk(scenario.worker.temp_folder))


@soak_fault("F27", "INTERNAL_ERROR", handlers=("wan",), weight=2)
def failing_video_encoder(scenario: Scenario) -> None:
    scenario.configure(frames=6)
    scenario.worker.inject("encoder", "fails")


@soak_fault("F29", "MODEL_UNAVAILABLE", "VALIDATION_ERROR", handlers=("sdxl",))
def unusable_adapter(scenario: Scenario) -> None:
    scenario.cleanup.enter_context(unusable_adapters(scenario.harness))
    name = scenario.rng.choice(UNUSABLE_ADAPTERS)
    scenario.configure(**scenario.rng.choice(({"loras": [{"name": name}]}, {"textual_inversions": [name]})))


def _slow_down(scenario: Scenario) -> None:
    """Makes the job last for seconds, so that what happens meanwhile happens in the middle of it."""
    scenario.worker.inject(scenario.network, "slow", times=1000)
    lengths: dict[str, dict[str, Any]] = {
        "sdxl": {"steps": 20, "num_images": 1},
        "wan": {"steps": 10},  # of two forward passes each
        "chat": {"max_tokens": 20, "temperature": 0},
    }
    scenario.configure(**lengths[scenario.handler])


@soak_fault("cancel", CANCELLED, weight=4)
def cancelled_by_runpod(scenario: Scenario) -> None:
    _slow_down(scenario)
    before = scenario.worker.calls(scenario.network)

    def cancel() -> None:
        scenario.worker.wait_for_call(scenario.network, more_than=before)
        scenario.worker.runpod_api.stop(scenario.job_id)

    scenario.during = cancel


@soak_fault("F23", "DEVICE_ERROR", exit_code=1)
def lost_gpu(scenario: Scenario) -> None:
    scenario.worker.inject(scenario.network, scenario.rng.choice(("illegal access", "ecc", "launch failure", "lost by text")))


@soak_fault("F24", "JOB_TIMEOUT", exit_code=1, weight=0.5)
def hanging_call(scenario: Scenario) -> None:
    scenario.job["policy"] = {"executionTimeout": 4000}
    scenario.worker.inject(scenario.network, "hang")


@soak_fault("F30", COMPLETED, exit_code=0)
def worker_scaled_down(scenario: Scenario) -> None:
    _slow_down(scenario)

    def terminate() -> None:
        scenario.worker.wait_for_call(scenario.network)
        scenario.worker.process.terminate()

    scenario.during = terminate


@soak_fault("F30", COMPLETED, KILLED, exit_code=-signal.SIGKILL, weight=2)
def worker_killed(scenario: Scenario) -> None:
    calls = scenario.rng.randrange(6)

    def kill() -> None:
        scenario.worker.wait_for_call(scenario.network, more_than=calls)
        scenario.worker.process.kill()

    scenario.during = kill
