"""The documentation is consistent with the repository: paths, make targets, variables, and example programs."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from shared.settings import Settings
from tests.documentation.blocks import COVERED, PAGES, Block, covering_tests
from tests.documentation.blocks import blocks as blocks_of_all_pages
from tests.doubles.typescript import compile_all

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Node's types are not installed for the compiler.
NODE = "declare const process: { env: Record<string, string | undefined> };\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_on_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)]
    named = re.findall(r"`((?:shared|handlers|tests|builder|small_models|playground|benchmarks|docs|schemas|examples)/[\w./*-]*)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in named if not any(ROOT.glob(path.rstrip("/")))]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = re.findall(r"`make ([a-z -]+)`|^make ([a-z -]+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {verb for pair in named for verb in " ".join(pair).split()} <= targets


def test_every_variable_of_the_readme_is_read() -> None:
    section = README.partition("## Environment")[2].partition("\n## ")[0]
    variables = set(re.findall(r"^\| `([A-Z_]+)`", section, flags=re.MULTILINE))
    aliases = {"SUPABASE_SERVICE_ROLE_KEY"}
    assert variables
    assert variables - aliases <= {name.upper() for name in Settings.model_fields}


def test_the_request_of_the_shell_example_is_valid() -> None:
    (body,) = re.findall(r"-d '(.*?)'", README, flags=re.DOTALL)
    request = SdxlRequest.parse(json.loads(body)["input"], job_id="runpod")
    assert request.warnings == ()


def test_the_python_example_sends_a_valid_request() -> None:
    (program,) = blocks("python")
    (job,) = (node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "job")
    assert WanRequest.parse(ast.literal_eval(job), job_id="runpod").warnings == ()


def test_the_typescript_example_compiles(tmp_path: Path) -> None:
    (program,) = blocks("typescript")
    (tmp_path / "schemas").mkdir()
    shutil.copy(ROOT / "schemas/contract.ts", tmp_path / "schemas")
    (tmp_path / "example.ts").write_text(NODE + program)
    assert compile_all(tmp_path) == ""


def test_the_payload_that_the_readme_shows_has_the_keys_of_a_real_one() -> None:
    (shown,) = blocks("json")
    payload = json.loads(shown)
    assert list(payload) == ["job_id", "worker_id", "status", "assets", "metadata", "error_message", "completedAt"]
    schema = json.loads((ROOT / "schemas/sdxl.payload.schema.json").read_text())
    from jsonschema import Draft202012Validator

    Draft202012Validator(schema).validate(payload)


def test_the_readme_counts_the_faults_and_the_jobs_of_the_demo() -> None:
    faults = re.findall(r"^\| F\d+ \|", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    jobs = [job for path in (ROOT / "playground/requests").glob("*.json") for job in json.loads(path.read_text(encoding="utf-8"))]
    assert f"{len(faults)} injected faults" in README
    assert len(jobs) == 9
    assert "`make demo` runs nine jobs" in README


@pytest.mark.parametrize("found", blocks_of_all_pages(), ids=lambda found: f"{found.page}: {found.start[:40]}")
def test_every_code_block_is_run_or_says_why_not(found: Block) -> None:
    tests = covering_tests(found)
    assert len(tests) == (0 if found.reason else 1), "register its test in tests/documentation/blocks.py, or add `<!-- not run: why -->`"


def test_every_registered_block_and_its_test_exist() -> None:
    pages = {(found.page, "file=" if "file=" in found.info else found.start) for found in blocks_of_all_pages()}
    assert [key for key in COVERED if not any(page == key[0] and start.startswith(key[1]) for page, start in pages)] == []
    named = {test for test in COVERED.values() if not _function_exists(*test.split("::"))}
    assert named == set()


def _function_exists(file: str, name: str) -> bool:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body)
