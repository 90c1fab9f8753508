"""C. The GPU, the machine, RunPod."""

from __future__ import annotations

import signal
import time
from typing import Any

from tests.chaos.faults.cases_c import STRANGE, filled, strange_files
from tests.chaos.soak.turns import COMPLETED, KILLED, PICTURES, STOPPED, Turn, draw


@draw("F21", COMPLETED, "OOM_ERROR", weight=2)
def no_memory_once(turn: Turn) -> None:
    turn.running.sabotage(turn.network, "oom")


@draw("F21", "OOM_ERROR")
def no_memory_at_all(turn: Turn) -> None:
    turn.running.sabotage(turn.network, "oom", times=1000)


@draw("F22", COMPLETED, handlers=PICTURES, weight=2)
def no_memory_in_the_decoder(turn: Turn) -> None:
    turn.running.sabotage("decoder", "oom", times=2)


@draw("F25", "GENERATION_ERROR", handlers=PICTURES, weight=2)
def an_unusable_result(turn: Turn) -> None:
    where, what = turn.chance.choice((("denoiser result", "nan"), ("decoder result", "nan"), ("decoder result", "black")))
    turn.running.sabotage(where, what, times=1000)


@draw("F26", "INTERNAL_ERROR", handlers=("wan",), weight=2)
def a_full_disk(turn: Turn) -> None:
    turn.ask(frames=6)
    turn.afterwards.enter_context(filled(turn.running.temporary))


@draw("F27", "INTERNAL_ERROR", handlers=("wan",), weight=2)
def an_encoder_that_fails(turn: Turn) -> None:
    turn.ask(frames=6)
    turn.running.sabotage("encoder", "fails")


@draw("F29", "MODEL_UNAVAILABLE", "VALIDATION_ERROR", handlers=("sdxl",))
def a_lora_that_is_none(turn: Turn) -> None:
    turn.afterwards.enter_context(strange_files(turn.world))
    name = turn.chance.choice(STRANGE)
    turn.ask(**turn.chance.choice(({"loras": [{"name": name}]}, {"textual_inversions": [name]})))


def _slowly(turn: Turn) -> None:
    """So that what comes meanwhile comes in the middle."""
    turn.running.sabotage(turn.network, "slow", times=1000)
    lengths: dict[str, dict[str, Any]] = {
        "sdxl": {"steps": 20, "num_images": 1},
        "wan": {"steps": 10},  # of two calls each
        "chat": {"max_tokens": 20, "temperature": 0},
    }
    turn.ask(**lengths[turn.handler])


@draw("cancel", STOPPED, weight=4)
def stopped_by_RunPod(turn: Turn) -> None:
    _slowly(turn)
    before = turn.running.calls(turn.network)

    def stop() -> None:
        turn.running.wait_for_call(turn.network, more_than=before)
        turn.running.gateway.stop(turn.id)

    turn.meanwhile = stop


@draw("F23", "DEVICE_ERROR", exits=1)
def the_GPU_is_lost(turn: Turn) -> None:
    turn.running.sabotage(turn.network, turn.chance.choice(("illegal access", "ecc", "launch failure", "lost by text")))


@draw("F24", "JOB_TIMEOUT", exits=1, weight=0.5)
def work_that_never_comes_back(turn: Turn) -> None:
    turn.job["policy"] = {"executionTimeout": 4000}
    turn.running.sabotage(turn.network, "hang")


@draw("F30", COMPLETED, exits=0)
def a_worker_that_is_scaled_down(turn: Turn) -> None:
    _slowly(turn)

    def terminate() -> None:
        turn.running.wait_for_call(turn.network)
        turn.running.process.terminate()

    turn.meanwhile = terminate


@draw("F30", COMPLETED, KILLED, exits=-signal.SIGKILL, weight=2)
def a_worker_that_is_killed(turn: Turn) -> None:
    moment = turn.chance.uniform(0.0, 1.0)

    def kill() -> None:
        turn.running.wait_for_call(turn.network)
        time.sleep(moment)
        turn.running.process.kill()

    turn.meanwhile = kill
