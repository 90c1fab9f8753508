"""A worker that keeps what it cannot deliver, or delivers what an earlier one has kept, killed on the way."""

from __future__ import annotations

import pytest

from tests.chaos.killed.conftest import Mortals
from tests.chaos.killed.lives import die_and_be_followed, die_delivering, moments_of, named
from tests.chaos.killed.moments import LATER, Later, Moment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("case", moments_of("paint"), ids=named)
def test_killed_when(mortals: Mortals, case: tuple[str, Moment]) -> None:
    die_and_be_followed(mortals, *case)


@pytest.mark.parametrize("later", LATER, ids=lambda later: f"{later.handler}-{later.words.replace(' ', '-').replace(',', '')}")
def test_killed_while_it_delivers_what_an_earlier_worker_kept_when(mortals: Mortals, later: Later) -> None:
    die_delivering(mortals, later, f"{later.handler}-later-{LATER.index(later)}")
