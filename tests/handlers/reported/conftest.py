"""Runners of whole jobs, on the recipes that the session has loaded."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.chat.handler import HANDLER as CHAT
from handlers.sdxl.handler import HANDLER as SDXL
from shared.settings import Settings
from tests.handlers.reported.jobs import JobRunner


@pytest.fixture(scope="session")
def sdxl_jobs(sdxl_recipe: Any, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> JobRunner:
    return JobRunner(SDXL, sdxl_recipe, tmp_path_factory.mktemp("sdxl"), settings)


@pytest.fixture(scope="session")
def chat_jobs(chat_recipe: Any, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> JobRunner:
    return JobRunner(CHAT, chat_recipe, tmp_path_factory.mktemp("chat"), settings)
