"""A. What a job brings, and B. the references that it points at."""

from __future__ import annotations

from typing import Any

from tests.chaos.faults import cases_a, cases_b
from tests.chaos.soak.turns import COMPLETED, PICTURES, Turn, draw
from tests.doubles.reference_host import answers, redirects

# A. What a job brings


@draw("F01", "VALIDATION_ERROR", handlers=PICTURES)
def no_input(turn: Turn) -> None:
    turn.job["input"], turn.refused = turn.chance.choice(cases_a.NO_INPUTS), True


@draw("F02", "VALIDATION_ERROR")
def a_wrong_number(turn: Turn) -> None:
    name = "max_tokens" if turn.handler == "chat" else "steps"
    turn.ask(**{name: turn.chance.choice(cases_a.WRONG_NUMBERS)})
    turn.refused = True


@draw("F03", "VALIDATION_ERROR")
def too_much(turn: Turn) -> None:
    bombs: dict[str, dict[str, Any]] = {"sdxl": {"resolution": "1000000x1000000"}, "wan": {"frames": 10_000}, "chat": {"max_tokens": 10**6}}
    turn.ask(**bombs[turn.handler])
    turn.refused = True


@draw("F04", "VALIDATION_ERROR")
def an_id_that_leads_elsewhere(turn: Turn) -> None:
    turn.job["input"]["user_id"], turn.refused = turn.chance.choice(cases_a.WRONG_IDS), True


@draw("F05", COMPLETED, "VALIDATION_ERROR")
def an_odd_prompt(turn: Turn) -> None:
    prompt = turn.chance.choice(cases_a.ODD_PROMPTS)
    if turn.handler == "chat":
        turn.ask(messages=[{"role": "user", "content": prompt[:1000]}])
    else:
        turn.job["input"]["prompt"] = prompt


@draw("F06", "VALIDATION_ERROR", "MODEL_UNAVAILABLE")
def a_name_of_no_model(turn: Turn) -> None:
    name = turn.chance.choice(cases_a.STRANGE_NAMES)
    turn.ask(**({"model": name} if turn.handler == "chat" else {"loras": [{"name": name}]}))
    turn.refused = True


@draw("F07", "VALIDATION_ERROR", handlers=PICTURES)
def a_hostile_receiver(turn: Turn) -> None:
    turn.job["input"]["callback_url"], turn.refused = turn.chance.choice(cases_a.HOSTILE_URLS), True


@draw("F08", COMPLETED)
def the_same_job_twice(turn: Turn) -> None:
    turn.deliveries = 2


# B. References


@draw("F09", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def an_address_that_is_not_public(turn: Turn) -> None:
    turn.refer(url=f"https://{turn.chance.choice(cases_b.NOT_PUBLIC)}/a.png")
    turn.refused = True


@draw("F10", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def an_address_that_changes(turn: Turn) -> None:
    turn.running.names(cases_b.UNSTEADY)
    turn.refer(url=f"https://{turn.chance.choice(list(cases_b.UNSTEADY))}/a.png")
    turn.refused = True


@draw("F11", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_hostile_redirect(turn: Turn) -> None:
    turn.refer(redirects(turn.chance.choice(cases_b.TARGETS)))
    turn.refused = True


@draw("F12", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_body_without_end(turn: Turn) -> None:
    turn.refer(turn.chance.choice(cases_b.TOO_MUCH))
    turn.refused = True


@draw("F13", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_host_that_drips(turn: Turn) -> None:
    turn.refer(turn.chance.choice([*cases_b.SLOW.values()]))
    turn.refused = True


@draw("F14", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_packed_body(turn: Turn) -> None:
    turn.refer(turn.chance.choice(cases_b.encoded()))
    turn.refused = True


@draw("F15", COMPLETED, "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_host_in_trouble(turn: Turn) -> None:
    turn.refer(turn.chance.choice(cases_b.troubles()), answers(cases_b.picture()))


@draw("F16", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def no_picture(turn: Turn) -> None:
    turn.refer(answers(turn.chance.choice(cases_b.no_pictures()), headers={"Content-Type": "image/png"}))
    turn.refused = True


@draw("F17", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_picture_that_is_a_bomb(turn: Turn) -> None:
    bomb, _ = turn.chance.choice(cases_b.bombs())
    turn.refer(answers(bomb))
    turn.refused = True


@draw("F18", COMPLETED, "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_picture_with_flipped_bits(turn: Turn) -> None:
    content = bytearray(cases_b.picture(turn.chance.choice(("PNG", "JPEG", "WEBP"))))
    for _ in range(turn.chance.randint(1, 8)):
        content[turn.chance.randrange(len(content))] ^= 1 << turn.chance.randrange(8)
    turn.refer(answers(bytes(content[: turn.chance.randint(1, len(content))])))


@draw("F19", COMPLETED, handlers=PICTURES)
def an_odd_picture(turn: Turn) -> None:
    turn.refer(answers(turn.chance.choice(cases_b.legal_pictures())))


@draw("F20", "REFERENCE_IMAGE_ERROR", handlers=PICTURES)
def a_bad_data_url(turn: Turn) -> None:
    turn.refer(url=turn.chance.choice(list(cases_b.BAD_DATA)))
    turn.refused = True
