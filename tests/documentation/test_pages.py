"""What pages show of the repository is what is there: layers, transcripts, and commands in running text."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from handlers import HANDLERS
from playground.demo import load_jobs
from tests.documentation.blocks import PAGES, ROOT, block

WRITTEN_BY_THE_READER = ("handlers.gradient.handler",)
COMMANDS = sorted(
    {
        (module, arguments.strip())
        for page in PAGES
        for module, arguments in re.findall(r"python -m ([\w.]+\w)\b(?!\.?…)((?: [^`\n]*)?)", page.read_text(encoding="utf-8"))
        if module not in WRITTEN_BY_THE_READER
    }
)


def test_the_layers_shown_are_those_that_lint_enforces() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["shared"])
    enforced = [set(layer.split(" | ")) for layer in layers]
    level = {module: depth for depth, modules in enumerate(enforced) for module in modules}
    shown = [re.split(r"\s{3,}", line.strip())[0] for line in block("docs/architecture.md", "handlers.sdxl |").splitlines()]
    top, *rest = (re.findall(r"[\w.]+", line) for line in shown)
    assert set(top) >= {f"handlers.{handler}" for handler in HANDLERS}
    depths = [{level[module.removeprefix("shared.")] for module in modules} for modules in rest]
    assert [len(each) for each in depths] == len(rest) * [1]
    assert [depth for (depth,) in depths] == sorted(depth for (depth,) in depths)


def test_the_transcript_of_the_demo_is_of_its_own_jobs() -> None:
    transcript = block("docs/demo.md", "SDXL: images")
    prompts = [job["prompt"] for handler in ("sdxl", "wan") for job in load_jobs(handler)]
    assert re.findall("“(.+)”", transcript) == prompts
    asked = [message["content"] for job in load_jobs("chat") for message in job["messages"] if message["role"] == "user"]
    assert re.findall(r"you: (.+)", transcript) == asked


@pytest.mark.parametrize(("module", "arguments"), COMMANDS, ids=[f"{module} {arguments}".strip() for module, arguments in COMMANDS])
def test_a_module_that_a_page_runs_exists_and_has_the_options(module: str, arguments: str) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None
    assert not found.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__") is not None
    known = _options(module.partition(".")[0])
    assert set(re.findall(r"(?<= )--[\w-]+", f" {arguments}")) - known == set()


@cache
def _options(package: str) -> set[str]:
    """All options that the modules of a package, and RunPod's SDK for the handlers, could read."""
    sdk = importlib.util.find_spec("runpod.serverless")
    assert sdk is not None
    assert sdk.origin is not None
    files = [Path(sdk.origin), ROOT / "shared/command_line.py", *(ROOT / package).rglob("*.py")]
    return {option for file in files for option in re.findall(r"""["'](--[\w-]+)["']""", file.read_text("utf-8"))}
