"""A worker that makes pictures, killed at every moment of a job."""

from __future__ import annotations

import pytest

from tests.chaos.killed.conftest import Mortals
from tests.chaos.killed.lives import die_and_be_followed, moments_of, named
from tests.chaos.killed.moments import Moment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("case", moments_of("sdxl"), ids=named)
def test_killed_when(mortals: Mortals, case: tuple[str, Moment]) -> None:
    die_and_be_followed(mortals, *case)
