"""Faults of storage and of the callback receiver."""

from __future__ import annotations

import time

from playground.callback_receiver import CannedResponse
from tests.chaos.fault_injection.cases.callbacks import PERMANENT_RESPONSES, TRANSIENT_RESPONSES
from tests.chaos.fault_injection.cases.storage import INCOMPLETE_RESPONSES, closes_mid_upload, database_stopped
from tests.chaos.soak.scenario import COMPLETED, DIFFUSION, Scenario, soak_fault
from tests.doubles.fake_storage import Handler, fails_with, hangs, responds, stores

# Storage


@soak_fault("F31", COMPLETED, handlers=DIFFUSION, weight=2)
def storage_fails_twice(scenario: Scenario) -> None:
    scenario.harness.storage.fail(*[fails_with(scenario.rng.choice((429, 500, 503, 504, 544, 423)))] * 2)


@soak_fault("F31", COMPLETED, handlers=DIFFUSION)
def storage_responds_with_html(scenario: Scenario) -> None:
    scenario.harness.storage.fail(responds(scenario.rng.choice((502, 503)), b"<html>Bad gateway</html>", "text/html"))


@soak_fault("F32", COMPLETED, handlers=DIFFUSION, weight=2)
def incomplete_storage_response(scenario: Scenario) -> None:
    scenario.harness.storage.fail(scenario.rng.choice(INCOMPLETE_RESPONSES))


@soak_fault("F33", "UPLOAD_ERROR", handlers=DIFFUSION)
def storage_hangs(scenario: Scenario) -> None:
    scenario.harness.storage.outage = hangs


@soak_fault("F34", "UPLOAD_ERROR", handlers=DIFFUSION, weight=2)
def storage_rejects_uploads(scenario: Scenario) -> None:
    scenario.harness.storage.outage = fails_with(scenario.rng.choice((401, 403, 404, 413, 415)))


@soak_fault("F35", "UPLOAD_ERROR", handlers=DIFFUSION, weight=2)
def storage_unavailable(scenario: Scenario) -> None:
    scenario.harness.storage.outage = fails_with(503)


@soak_fault("F35", "UPLOAD_ERROR", handlers=DIFFUSION)
def storage_and_receiver_unavailable(scenario: Scenario) -> None:
    scenario.harness.storage.outage = fails_with(503)
    scenario.harness.set_callback_responses(*[CannedResponse(503)] * 50)


@soak_fault("F36", COMPLETED, handlers=DIFFUSION)
def storage_dies(scenario: Scenario) -> None:
    scenario.harness.storage.fail(scenario.rng.choice((database_stopped, closes_mid_upload)))


@soak_fault("F36", COMPLETED, handlers=DIFFUSION)
def slow_storage(scenario: Scenario) -> None:
    def store_slowly(handler: Handler) -> None:
        time.sleep(1.5)
        stores(handler)

    scenario.harness.storage.fail(store_slowly, store_slowly)


# Callbacks


@soak_fault("F37", COMPLETED, weight=3)
def transient_receiver_failure(scenario: Scenario) -> None:
    scenario.harness.set_callback_responses(scenario.rng.choice(TRANSIENT_RESPONSES))


@soak_fault("F38", COMPLETED, weight=3)
def receiver_unavailable(scenario: Scenario) -> None:
    scenario.harness.set_callback_responses(*scenario.rng.choice(PERMANENT_RESPONSES))


@soak_fault("F39", COMPLETED)
def receiver_too_slow(scenario: Scenario) -> None:
    scenario.harness.set_callback_responses(CannedResponse(delay=4.0))
