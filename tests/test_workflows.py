"""The GitHub workflows call existing make targets, cover every handler, and have limits and minimal permissions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from builder.images.build import ROOT
from handlers import HANDLERS

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def jobs(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()


def commands(path: Path) -> list[str]:
    return [line.strip() for job in jobs(path) for step in job["steps"] for line in step.get("run", "").splitlines()]


@every_workflow
def test_every_make_target_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = [word for command in commands(path) if command.startswith("make ") and "${{" not in command for word in command.split()[1:]]
    named += [word for job in jobs(path) for verb in job.get("strategy", {}).get("matrix", {}).get("verb", []) for word in verb.split()]
    assert named
    assert {word for word in named if "=" not in word} <= targets


@every_workflow
def test_no_step_is_a_no_op(path: Path) -> None:
    assert [command for command in commands(path) if command.startswith(("echo", "printf", "true", ":"))] == []


@every_workflow
def test_every_job_has_a_timeout_and_read_only_default_permissions(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in jobs(path))


def test_images_are_built_for_every_handler_and_pushed_only_for_tags() -> None:
    (job,) = jobs(ROOT / ".github/workflows/images.yml")
    assert job["strategy"]["matrix"]["handler"] == list(HANDLERS)
    pushing = [step for step in job["steps"] if step.get("with", {}).get("push") or "login" in step.get("uses", "")]
    assert len(pushing) == 2
    assert {step["if"] for step in pushing} == {"github.ref_type == 'tag'"}
