"""What the tests of this folder have in common: a job is begun, its worker is killed, and another one does the job."""

from __future__ import annotations

from tests.chaos.killed.conftest import Mortals
from tests.chaos.killed.moments import MOMENTS, Later, Moment, Scene

NAMES = {moment.words: moment.words.replace(" ", "-").replace(",", "") for moment in MOMENTS}


def moments_of(*handlers: str) -> list[tuple[str, Moment]]:
    """Each handler with each of its moments."""
    return [(handler, moment) for handler in handlers for moment in MOMENTS if handler in moment.handlers]


def named(case: tuple[str, Moment]) -> str:
    """A name for a test."""
    return f"{case[0]}-{NAMES[case[1].words]}"


def die_and_be_followed(mortals: Mortals, handler: str, moment: Moment) -> None:
    """A worker is killed at a moment of a job; what is named then is whole; the next worker does the job."""
    job_id = f"{handler}-{MOMENTS.index(moment)}"
    scene = Scene(mortals.world, mortals.living(handler), mortals.job(handler, job_id, several=moment.several))
    moment.arrange(scene)
    scene.victim.gateway.submit(scene.job)
    mortals.died(scene.victim)
    assert scene.victim.gateway.results(job_id) == [], "RunPod has no result, and hands the job out again"
    mortals.names_only_what_is_whole(job_id)
    mortals.is_done_again(scene.job, handler)


def die_delivering(mortals: Mortals, later: Later, job_id: str) -> None:
    """A worker keeps a result; the next one is killed while it delivers that; the one after that delivers it."""
    keeper = mortals.living(later.handler)
    scene = Scene(mortals.world, keeper, mortals.job(later.handler, job_id))
    scene.receiver_away() if later.handler == "chat" else scene.storage_away()
    kept = keeper.do(scene.job)
    keeper.process.kill()
    mortals.world.calm()
    later.arrange(mortals.world)
    mortals.died(mortals.living(later.handler))
    mortals.names_only_what_is_whole(job_id)
    assert mortals.world.redeliver() == 0
    mortals.names_only_what_is_whole(job_id)
    mortals.was_told_under_one_id(job_id)
    assert set(kept["metadata"].get("assets_pending", [])) <= set(mortals.world.storage.objects)
    mortals.is_done_again(scene.job, later.handler)
