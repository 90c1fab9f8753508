from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def short_logs() -> Iterator[None]:
    """Logs at INFO. At DEBUG, thousands of tracebacks would take longer than the tests."""
    structlog.configure(processors=[structlog.processors.JSONRenderer()], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()
