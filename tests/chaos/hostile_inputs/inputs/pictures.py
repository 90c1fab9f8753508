"""Image files that cost more to decode than they are long."""

from __future__ import annotations

from tests.chaos.hostile_inputs.registry import COMPLETED, UNUSABLE_REFERENCE, Prepare, hostile
from tests.chaos.soak.scenario import DIFFUSION, Scenario
from tests.doubles.image_server import answers
from tests.fuzzing.expensive_images import EXPENSIVE_IMAGES, expensive_image, large_webp


def _referring_to(name: str) -> Prepare:
    return lambda scenario: scenario.use_reference(answers(expensive_image(name)))


def _many_pictures(scenario: Scenario) -> None:
    url = scenario.harness.storage.serve("/large.webp", answers(large_webp()))
    scenario.configure(controls=[{"kind": "canny", "image": f"{url}?{number}", "strength": 0.5} for number in range(3)])
    scenario.job["input"]["metadata"] = {"reference_image_url": url, "reference_mode": "modify"}


for _name in EXPENSIVE_IMAGES:
    hostile("Pictures", _name, _referring_to(_name), *DIFFUSION, outcomes=UNUSABLE_REFERENCE | {COMPLETED})
hostile(
    "Pictures",
    "Four WebPs of 7680 × 4320 pixels at once",
    _many_pictures,
    "sdxl",
    outcomes=UNUSABLE_REFERENCE | {"VALIDATION_ERROR", "MODEL_UNAVAILABLE", COMPLETED},
)
