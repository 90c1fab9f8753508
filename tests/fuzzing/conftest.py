from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def short_logs() -> Iterator[None]:
    """Lines from INFO on: thousands of tracebacks, which are for DEBUG, would take longer than all that is tested."""
    structlog.configure(processors=[structlog.processors.JSONRenderer()], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()
