"""A copy of the repository, with one protection less, and what its tests say to that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from tests.mutations.table import Protection

_SECONDS = 900.0  # of one removal
# How a test says itself that something does not hold. Anything else may be the removal's own clumsiness.
_ASSERTIONS = ("AssertionError", "assert ", "Failed: DID NOT RAISE")


class TableError(Exception):
    """An entry does not fit the repository."""


@dataclass(frozen=True)
class Verdict:
    """What became of a test.

    Attributes:
        test: Its id.
        end: `passed`, `skipped`, `failed`, or `error`: something around it failed.
        message: The first line of what it failed with.
    """

    test: str
    end: str
    message: str = ""


@dataclass(frozen=True)
class Result:
    """What the tests of a protection said when it was gone."""

    protection: Protection
    complaints: Mapping[str, str]

    @property
    def noticed(self) -> bool:
        """Whether every test failed as it should."""
        return not any(self.complaints.values())


def copy_repository(root: Path, target: Path) -> None:
    """Copies what git knows, and what it does not know yet and does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def without(protection: Protection, root: Path) -> str:
    """The file's content when the protection is gone.

    Raises:
        TableError: Its text is not there, or more than once, or what is left is no Python.
    """
    content = (root / protection.file).read_text(encoding="utf-8")
    if (count := content.count(protection.text)) != 1:
        raise TableError(f"{protection.file} has {count} times what is to be removed for: {protection.what}")
    changed = content.replace(protection.text, protection.instead)
    try:
        if protection.file.endswith(".py"):
            compile(changed, protection.file, "exec")
    except SyntaxError as error:
        raise TableError(f"{protection.file} is no Python any more in line {error.lineno} without: {protection.what}") from None
    return changed


def remove(protection: Protection, whole: Path) -> Result:
    """Removes a protection from a copy of a copy, and runs its tests there."""
    with TemporaryDirectory(prefix="protection-") as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(whole, copy)
        (copy / protection.file).write_text(without(protection, copy), encoding="utf-8")
        verdicts = run_tests(copy, protection.tests)
    return Result(protection, {test: _complaint(test, verdicts, protection.shows) for test in protection.tests})


def run_tests(root: Path, tests: Sequence[str], seconds: float = _SECONDS) -> list[Verdict]:
    """Runs tests in a process of their own, for so long; nothing that they did not do is in the list."""
    report = root / "protections.xml"
    options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
    # Files are changed within one second, by which Python tells whether what it has compiled is still true.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
    # An empty report was begun and not written, as on a disk that is full.
    if process.returncode not in (0, 1) or not report.is_file() or not report.stat().st_size:
        return []
    return [_verdict(case) for case in ElementTree.parse(report).iter("testcase")]


def _verdict(case: ElementTree.Element) -> Verdict:
    test = f"{case.get('file')}::{case.get('name')}"
    for kind, end in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
        if (found := case.find(kind)) is not None:
            return Verdict(test, end, (found.get("message") or "").partition("\n")[0])
    return Verdict(test, "passed")


def of_test(test: str, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of a test, or of all its cases."""
    return [verdict for verdict in verdicts if verdict.test == test or verdict.test.startswith(f"{test}[")]


def _complaint(test: str, verdicts: Sequence[Verdict], shows: str) -> str:
    """Why a test has not noticed the removal; nothing when it has."""
    mine = of_test(test, verdicts)
    ends = {verdict.end for verdict in mine}
    if "failed" not in ends:
        return "passes" if ends == {"passed"} else "did not run"
    expected = (*_ASSERTIONS, shows) if shows else _ASSERTIONS
    failures = [verdict.message for verdict in mine if verdict.end == "failed"]
    return "" if any(message.startswith(expected) for message in failures) else f"fails by {failures[0][:100]}"
