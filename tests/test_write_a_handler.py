"""A fourth handler, written by following docs/write-a-handler.md literally in a copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers import HANDLERS
from tests.doubles.processes import clean_environment
from tests.shared.serverless.conftest import start_worker

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/write-a-handler.md").read_text("utf-8")
FILES = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE))
FOLDERS = ("builder", "handlers", "playground", "schemas", "shared", "tests")
LISTS = {
    "handlers/__init__.py": ('HANDLERS = ("sdxl", "wan", "chat")', 'HANDLERS = ("sdxl", "wan", "chat", "gradient")'),
    "docker-bake.hcl": ('handler = ["sdxl", "wan", "chat"]', 'handler = ["sdxl", "wan", "chat", "gradient"]'),
}
"""The lists of step 5, before and after."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the fourth handler. Its lock file is the shared one, as nothing can be resolved without a package registry."""
    root = tmp_path_factory.mktemp("repository")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("docker-bake.hcl", "pyproject.toml", "package.json", "Makefile", "Dockerfile", "docs"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for name, (before, after) in LISTS.items():
        text = (root / name).read_text("utf-8")
        assert text.count(before) == 1
        (root / name).write_text(text.replace(before, after), encoding="utf-8")
    lock = (root / "builder/requirements/shared.txt").read_text("utf-8")
    (root / "builder/requirements/gradient.txt").write_text(lock, encoding="utf-8")
    run(root, "builder.contract.export")
    return root


def run(root: Path, module: str, *arguments: str) -> None:
    environment = clean_environment(PYTHONPATH=str(root))
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_in_shared_is_touched() -> None:
    assert [name for name in (*FILES, *LISTS) if name.startswith("shared/")] == []


def test_it_serves_jobs_in_the_sdk(copy: Path, tmp_path: Path) -> None:
    job = json.loads(FILES["handlers/gradient/test_input.json"])
    with start_worker(tmp_path, "handlers.gradient.handler", PYTHONPATH=str(copy)) as loop:
        loop.runpod_api.submit({"id": "fourth", **job})
        output = loop.runpod_api.result("fourth")["output"]
        assert output["status"] == "completed"
        assert loop.callbacks("test-gradient") == [output]
        with Image.open(loop.worker.output / output["assets"][0]["url"]) as image:
            red = np.asarray(image)[0, :, 0]
        assert (red[0], red[-1]) == (0, 200)
        loop.runpod_api.submit({"id": "wrong", "input": job["input"] | {"config": {"red": 256}}})
        assert "config.red" in loop.runpod_api.result("wrong")["error"]


@pytest.mark.slow
def test_its_test_job_runs_by_the_command_of_the_page(copy: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"^python -m handlers.*$", PAGE, flags=re.MULTILINE)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = clean_environment(PYTHONPATH=str(copy), OUTPUT_DIR=str(tmp_path), PATH=path)
    done = subprocess.run(["bash", "-euc", command], cwd=copy, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "test-user/test-gradient/0.png").is_file()


def test_it_is_complete(copy: Path) -> None:
    assert missing(copy, "gradient") == []


@pytest.mark.parametrize("handler", HANDLERS)
def test_every_handler_is_complete(handler: str) -> None:
    assert missing(ROOT, handler) == []


def missing(root: Path, handler: str) -> list[str]:
    """What a handler lacks of all that belongs to one."""
    files = [
        *(f"handlers/{handler}/{name}" for name in ("handler.py", "request.py", "payload.py", "test_input.json")),
        *(f"handlers/{handler}/.runpod/{name}.json" for name in ("hub", "tests")),
        *(f"schemas/{handler}.{role}.schema.json" for role in ("request", "payload")),
        *(f"builder/requirements/{handler}.{kind}" for kind in ("in", "txt")),
        f"docs/handlers/{handler}.md",
    ]
    absent = [name for name in files if not (root / name).is_file()]
    if f'"{handler}"' not in re.findall(r"handler = \[(.*?)\]", (root / "docker-bake.hcl").read_text("utf-8"))[0]:
        absent.append("a target in docker-bake.hcl")
    if f"export type {handler.capitalize()}Payload" not in (root / "schemas/contract.ts").read_text("utf-8"):
        absent.append("types in schemas/contract.ts")
    return absent
