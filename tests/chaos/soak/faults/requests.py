"""Faults of requests and of the references that they name."""

from __future__ import annotations

from typing import Any

from tests.chaos.fault_injection import image_files
from tests.chaos.fault_injection.cases import inputs, references
from tests.chaos.soak.scenario import COMPLETED, DIFFUSION, Scenario, soak_fault
from tests.doubles.image_server import answers, redirects

# Requests


@soak_fault("F01", "VALIDATION_ERROR", handlers=DIFFUSION)
def invalid_input(scenario: Scenario) -> None:
    scenario.job["input"], scenario.rejected = scenario.rng.choice(inputs.INVALID_INPUTS), True


@soak_fault("F02", "VALIDATION_ERROR")
def invalid_number(scenario: Scenario) -> None:
    name = "max_tokens" if scenario.handler == "chat" else "steps"
    scenario.configure(**{name: scenario.rng.choice(inputs.INVALID_NUMBERS)})
    scenario.rejected = True


@soak_fault("F03", "VALIDATION_ERROR")
def excessive_size(scenario: Scenario) -> None:
    sizes: dict[str, dict[str, Any]] = {"sdxl": {"resolution": "1000000x1000000"}, "wan": {"frames": 10_000}, "chat": {"max_tokens": 10**6}}
    scenario.configure(**sizes[scenario.handler])
    scenario.rejected = True


@soak_fault("F04", "VALIDATION_ERROR")
def unsafe_id(scenario: Scenario) -> None:
    scenario.job["input"]["user_id"], scenario.rejected = scenario.rng.choice(inputs.INVALID_IDS), True


@soak_fault("F05", COMPLETED, "VALIDATION_ERROR")
def unusual_prompt(scenario: Scenario) -> None:
    prompt = scenario.rng.choice(inputs.UNUSUAL_PROMPTS)
    if scenario.handler == "chat":
        scenario.configure(messages=[{"role": "user", "content": prompt[:1000]}])
    else:
        scenario.job["input"]["prompt"] = prompt


@soak_fault("F06", "VALIDATION_ERROR", "MODEL_UNAVAILABLE")
def unknown_model_name(scenario: Scenario) -> None:
    name = scenario.rng.choice(inputs.UNKNOWN_NAMES)
    scenario.configure(**({"model": name} if scenario.handler == "chat" else {"loras": [{"name": name}]}))
    scenario.rejected = True


@soak_fault("F07", "VALIDATION_ERROR", handlers=DIFFUSION)
def hostile_callback_url(scenario: Scenario) -> None:
    scenario.job["input"]["callback_url"], scenario.rejected = scenario.rng.choice(inputs.HOSTILE_URLS), True


@soak_fault("F08", COMPLETED)
def duplicate_delivery(scenario: Scenario) -> None:
    scenario.deliveries = 2


# References


@soak_fault("F09", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def non_public_address(scenario: Scenario) -> None:
    scenario.use_reference(url=f"https://{scenario.rng.choice(references.NON_PUBLIC_HOSTS)}/a.png")
    scenario.rejected = True


@soak_fault("F10", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def dns_rebinding(scenario: Scenario) -> None:
    scenario.worker.set_dns(references.REBINDING_NAMES)
    scenario.use_reference(url=f"https://{scenario.rng.choice(list(references.REBINDING_NAMES))}/a.png")
    scenario.rejected = True


@soak_fault("F11", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def hostile_redirect(scenario: Scenario) -> None:
    scenario.use_reference(redirects(scenario.rng.choice(references.REDIRECT_TARGETS)))
    scenario.rejected = True


@soak_fault("F12", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def oversized_body(scenario: Scenario) -> None:
    scenario.use_reference(scenario.rng.choice(references.OVERSIZED_BODIES))
    scenario.rejected = True


@soak_fault("F13", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def slow_image_server(scenario: Scenario) -> None:
    scenario.use_reference(scenario.rng.choice([*references.SLOW_HOSTS.values()]))
    scenario.rejected = True


@soak_fault("F14", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def encoded_body(scenario: Scenario) -> None:
    scenario.use_reference(scenario.rng.choice(references.encoded_bodies()))
    scenario.rejected = True


@soak_fault("F15", COMPLETED, "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def transient_image_server_failure(scenario: Scenario) -> None:
    scenario.use_reference(scenario.rng.choice(references.transient_failures()), answers(image_files.image_bytes()))


@soak_fault("F16", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def not_an_image(scenario: Scenario) -> None:
    scenario.use_reference(answers(scenario.rng.choice(image_files.non_images()), headers={"Content-Type": "image/png"}))
    scenario.rejected = True


@soak_fault("F17", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def decompression_bomb(scenario: Scenario) -> None:
    scenario.use_reference(answers(scenario.rng.choice(image_files.decompression_bombs())))
    scenario.rejected = True


@soak_fault("F18", COMPLETED, "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def corrupted_image(scenario: Scenario) -> None:
    content = bytearray(image_files.image_bytes(scenario.rng.choice(("PNG", "JPEG", "WEBP"))))
    for _ in range(scenario.rng.randint(1, 8)):
        content[scenario.rng.randrange(len(content))] ^= 1 << scenario.rng.randrange(8)
    scenario.use_reference(answers(bytes(content[: scenario.rng.randint(1, len(content))])))


@soak_fault("F19", COMPLETED, handlers=DIFFUSION)
def unusual_image(scenario: Scenario) -> None:
    scenario.use_reference(answers(scenario.rng.choice(image_files.unusual_images())))


@soak_fault("F20", "REFERENCE_IMAGE_ERROR", handlers=DIFFUSION)
def invalid_data_url(scenario: Scenario) -> None:
    scenario.use_reference(url=scenario.rng.choice(list(references.INVALID_DATA_URLS)))
    scenario.rejected = True
