"""D. Storage, and E. callbacks."""

from __future__ import annotations

import time

from playground.callback_receiver import Answer
from tests.chaos.faults.cases_d import HALF_ANSWERS, database_stopped, dies_reading
from tests.chaos.faults.cases_e import LASTING, PASSING
from tests.chaos.soak.turns import COMPLETED, PICTURES, Turn, draw
from tests.doubles.storage_server import Handler, fails_with, hangs, says, stores

# D. Storage


@draw("F31", COMPLETED, handlers=PICTURES, weight=2)
def storage_that_fails_twice(turn: Turn) -> None:
    turn.world.storage.fail(*[fails_with(turn.chance.choice((429, 500, 503, 504, 544, 423)))] * 2)


@draw("F31", COMPLETED, handlers=PICTURES)
def storage_that_answers_with_a_page(turn: Turn) -> None:
    turn.world.storage.fail(says(turn.chance.choice((502, 503)), b"<html>Bad gateway</html>", "text/html"))


@draw("F32", COMPLETED, handlers=PICTURES, weight=2)
def an_answer_that_is_lost(turn: Turn) -> None:
    turn.world.storage.fail(turn.chance.choice(HALF_ANSWERS))


@draw("F33", "UPLOAD_ERROR", handlers=PICTURES)
def storage_that_hangs(turn: Turn) -> None:
    turn.world.storage.outage = hangs


@draw("F34", "UPLOAD_ERROR", handlers=PICTURES, weight=2)
def storage_that_refuses(turn: Turn) -> None:
    turn.world.storage.outage = fails_with(turn.chance.choice((401, 403, 404, 413, 415)))


@draw("F35", "UPLOAD_ERROR", handlers=PICTURES, weight=2)
def storage_that_is_away(turn: Turn) -> None:
    turn.world.storage.outage = fails_with(503)


@draw("F35", "UPLOAD_ERROR", handlers=PICTURES)
def storage_and_the_receiver_are_away(turn: Turn) -> None:
    turn.world.storage.outage = fails_with(503)
    turn.world.answers(*[Answer(503)] * 50)


@draw("F36", COMPLETED, handlers=PICTURES)
def storage_that_dies(turn: Turn) -> None:
    turn.world.storage.fail(turn.chance.choice((database_stopped, dies_reading)))


@draw("F36", COMPLETED, handlers=PICTURES)
def storage_that_is_slow(turn: Turn) -> None:
    def slowly(handler: Handler) -> None:
        time.sleep(1.5)
        stores(handler)

    turn.world.storage.fail(slowly, slowly)


# E. Callbacks


@draw("F37", COMPLETED, weight=3)
def a_receiver_in_trouble(turn: Turn) -> None:
    turn.world.answers(turn.chance.choice(PASSING))


@draw("F38", COMPLETED, weight=3)
def a_receiver_that_is_away(turn: Turn) -> None:
    turn.world.answers(*turn.chance.choice(LASTING))


@draw("F39", COMPLETED)
def a_receiver_that_is_too_slow(turn: Turn) -> None:
    turn.world.answers(Answer(delay=4.0))
