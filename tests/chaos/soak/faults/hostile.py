"""Hostile inputs of `tests/chaos/hostile_inputs`, one drawn for each job."""

from __future__ import annotations

from tests.chaos.hostile_inputs.inputs import HOSTILE_INPUTS
from tests.chaos.soak.scenario import DIFFUSION, Scenario, soak_fault

# Requests whose callback URL or id cannot be read: they are answered, but not called back, and so count as lost.
_WITHOUT_CALLBACK = ("callback_url", "job_id", "9 MB", "100,000", "400 levels")


def _outcomes(group: str) -> set[str]:
    return {outcome for hostile in HOSTILE_INPUTS if hostile.group == group for outcome in hostile.outcomes}


def _draw(scenario: Scenario, group: str) -> None:
    drawn = [each for each in HOSTILE_INPUTS if each.group == group and each.handler == scenario.handler]
    scenario.rng.choice([each for each in drawn if not any(word in each.name for word in _WITHOUT_CALLBACK)]).prepare(scenario)


@soak_fault("H01", *_outcomes("Requests"), handlers=DIFFUSION)
def hostile_request(scenario: Scenario) -> None:
    _draw(scenario, "Requests")


@soak_fault("H02", *_outcomes("Schemas and grammars"), handlers=("chat",))
def hostile_schema(scenario: Scenario) -> None:
    _draw(scenario, "Schemas and grammars")


@soak_fault("H03", *_outcomes("Pictures"), handlers=DIFFUSION)
def hostile_picture(scenario: Scenario) -> None:
    _draw(scenario, "Pictures")


@soak_fault("H04", *_outcomes("Hosts"), handlers=DIFFUSION)
def hostile_host(scenario: Scenario) -> None:
    _draw(scenario, "Hosts")
