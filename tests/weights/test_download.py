from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from shared.weights.catalogue import QWEN_BASE

# What a worker does at its start, in a process of its own: the hub's library reads its environment when it is imported.
START = """
from shared.settings import SettingsError, load_settings, prepare_environment
from shared.weights.catalogue import QWEN_BASE
from shared.weights.resolve import resolve

prepare_environment()
try:
    print("FOUND", resolve(QWEN_BASE, load_settings()))
except SettingsError as error:
    print("STOPPED", error)
"""


class Hub:
    """Answers as a model hub does, with the files of one folder, and remembers what was asked for."""

    def __init__(self, server: HTTPServer, files: dict[str, bytes]) -> None:
        self.files, self.asked = files, list[str]()
        self.url = server.url_for("").rstrip("/")
        self._tree = f"/api/models/{QWEN_BASE.repo}/tree/{QWEN_BASE.revision}"
        self._file = f"/{QWEN_BASE.repo}/resolve/{QWEN_BASE.revision}/"
        server.expect_request("", method=None).respond_with_handler(self._answer) if False else None
        server.expect_request(self._any).respond_with_handler(self._answer)
