"""Runs the tests of a mutation against a copy of the repository in which the mutation is applied.

Importing torch, diffusers and transformers takes longer than most of the tests. A fork server imports them once, and forks one process per
mutant, which imports the (mutated) product and its tests afresh. Copies of the repository consist of hard links; only the mutated file is
written.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from playground.fork_server import LIBRARIES
from tests.mutations.mutation import Mutation

ROOT = Path(__file__).parents[2]

# Read when huggingface_hub is imported. The product sets them in the processes that it runs in.
_IMPORT_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}

TIMEOUT = 900.0
"""Seconds for the tests of one mutation."""

# Failures of the test itself. Any other exception may be an artefact of the mutation.
_ASSERTIONS = ("AssertionError", "assert ", "Failed: DID NOT RAISE")


@dataclass(frozen=True)
class TestOutcome:
    """The result of one test phase.

    Attributes:
        test: Node id.
        outcome: `passed`, `skipped`, `failed`, or `error` when a fixture failed.
        message: First line of the failure.
    """

    __test__ = False

    test: str
    outcome: str
    message: str = ""


@dataclass(frozen=True)
class MutationResult:
    """The verdict on one mutant.

    Attributes:
        misses: For each test why it did not kill the mutant; an empty string when it did.
    """

    mutation: Mutation
    misses: Mapping[str, str]

    @property
    def killed(self) -> bool:
        """Whether every test failed as it should."""
        return not any(self.misses.values())


def copy_repository(root: Path, target: Path) -> None:
    """Copies all tracked files, and untracked ones that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    tools = root / "supabase/tests/node_modules"  # which `make edge-test` installs
    if tools.is_dir():
        (target / tools.relative_to(root)).symlink_to(tools)


class Runner:
    """Runs pytest in processes forked from one that has already imported `libraries`."""

    def __init__(self, libraries: Sequence[str] = ("pytest", "hypothesis", *LIBRARIES)) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(libraries))
        _start_fork_server()

    def check_mutation(self, mutation: Mutation, template: Path) -> MutationResult:
        """Applies a mutation to a copy of `template` and runs its tests there."""
        with TemporaryDirectory(prefix="mutant-") as folder:
            copy = Path(folder) / "repository"
            shutil.copytree(template, copy, symlinks=True, copy_function=os.link)
            _replace(copy / mutation.file, mutation.apply(template))
            outcomes = self.run_tests(copy, mutation.tests, write_bytecode=False)
        return MutationResult(mutation, {test: _miss(outcomes_of(test, outcomes), mutation.exception) for test in mutation.tests})

    def run_tests(self, root: Path, tests: Sequence[str], *, write_bytecode: bool = True, timeout: float = TIMEOUT) -> list[TestOutcome]:
        """Runs tests below `root` in a forked process. Returns nothing when pytest could not run them, or not within `timeout` seconds."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({} if write_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"})
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run_pytest, args=(root, tests, environment, sender))
        process.start()
        sender.close()
        try:
            outcomes = [TestOutcome(*each) for each in receiver.recv()] if receiver.poll(timeout) else []
        except EOFError:
            outcomes = []
        finally:
            receiver.close()
            _kill_group(process.pid)
            process.join()
        return outcomes


def _start_fork_server() -> None:
    """Starts the fork server with the environment for its imports, and without its standard error: libraries print warnings."""
    environment, stderr, null = dict(os.environ), os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.environ.update(_IMPORT_ENVIRONMENT)
    os.dup2(null, 2)
    try:
        forkserver.ensure_running()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        os.environ.clear()
        os.environ.update(environment)


def _replace(path: Path, content: str) -> None:
    """Writes a file that is a hard link without writing through the link, and drops its bytecode."""
    original = path.with_name(f"{path.name}.original")
    path.rename(original)
    shutil.copy2(original, path)
    original.unlink()
    path.write_text(content, encoding="utf-8")
    for bytecode in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        bytecode.unlink()


def _kill_group(process: int | None) -> None:
    """Kills what the tests left running in the process group of the fork."""
    assert process is not None
    try:
        os.killpg(process, 9)
    except ProcessLookupError:
        return


class _Recorder:
    """Pytest plugin that records the fields of a `TestOutcome` for each test. The class itself is out of reach of the forked process."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            outcome = "error" if report.failed and report.when != "call" else report.outcome
            self.outcomes.append((report.nodeid, outcome, _message(report)))


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr or "").partition("\n")[0]


def _run_pytest(root: Path, tests: Sequence[str], environment: Mapping[str, str], sender: Connection) -> None:
    """Runs in the forked process: runs tests with the modules below `root`, and sends their outcomes."""
    os.setsid()
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    # This module, and the package with its list of libraries, were imported from the checkout. Everything else is to come from `root`:
    # the fork server of workers, too, which would otherwise serve the code without the mutation.
    sys.path[:] = [str(root), *(path for path in sys.path if Path(path) != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "playground")]:
        del sys.modules[name]
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, sys.stdout.fileno())
    os.dup2(null, sys.stderr.fileno())
    recorder = _Recorder()
    code = pytest.main(["-q", "-p", "no:cacheprovider", f"--rootdir={root}", *tests], plugins=[recorder])
    sender.send(recorder.outcomes if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else [])
    os._exit(0)  # without waiting for threads that a mutant has left


def outcomes_of(test: str, outcomes: Sequence[TestOutcome]) -> list[TestOutcome]:
    """Returns the outcomes of a test, or of all its parameter sets."""
    return [outcome for outcome in outcomes if outcome.test == test or outcome.test.startswith(f"{test}[")]


def _miss(outcomes: Sequence[TestOutcome], exception: str) -> str:
    """Returns why a test did not kill the mutant; an empty string when it did."""
    kinds = {each.outcome for each in outcomes}
    if "failed" not in kinds:
        return "passes" if kinds == {"passed"} else "did not run"
    expected = (*_ASSERTIONS, exception) if exception else _ASSERTIONS
    failures = [each.message for each in outcomes if each.outcome == "failed"]
    return "" if any(message.startswith(expected) for message in failures) else f"fails by {failures[0][:100]}"
