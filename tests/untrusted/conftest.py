"""A subprocess that loads untrusted files under an audit hook."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from playground.fork_server import Request
from tests.doubles.processes import ROOT, clean_environment, fork_server


@dataclass(frozen=True)
class LoadResult:
    """The result of one attempt.

    Attributes:
        outcome: `loaded`, or the error's type and message.
        events: Audit events: opened archives and scripts, names resolved by an unpickler, started processes.
    """

    outcome: str
    events: list[str]


class AuditedLoader:
    """The subprocess `tests.untrusted.audited_loader`."""

    def __init__(self, requests: TextIO, responses: TextIO) -> None:
        self._sent = requests
        self._responses = responses
        self._requests = 0

    def load(self, loader: str, path: Path) -> LoadResult:
        """Loads a file or folder."""
        self._requests += 1
        self._sent.write(json.dumps([self._requests, loader, str(path)]) + "\n")
        self._sent.flush()
        number = 0
        while number != self._requests:  # skips the response to a request that timed out
            number, outcome, events = json.loads(self._responses.readline())
        return LoadResult(outcome, events)


@pytest.fixture(scope="package")
def loader(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditedLoader]:
    errors = tmp_path_factory.mktemp("loader") / "errors.log"
    environment = clean_environment(TINY_MODELS=str(tiny_models))
    request = Request("tests.untrusted.audited_loader", (), str(ROOT), environment)
    (reads, requests), (responses, writes) = os.pipe(), os.pipe()
    with errors.open("w") as log:
        process = fork_server().start(request, (reads, writes, log.fileno()))
    os.close(reads)
    os.close(writes)
    with open(requests, "w") as sent, open(responses) as received:
        yield AuditedLoader(sent, received)
        process.kill()
        process.wait()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder for malicious files. The audit hook recognizes it by its name."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A path that malicious files create if their code runs. Asserts afterwards that it does not exist."""
    path = tmp_path / "code-has-run"
    yield path
    assert not os.path.lexists(path), "code was executed"
