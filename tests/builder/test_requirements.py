"""Every image is installed from a lock that pins everything, and the locks agree with each other and with this environment."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from builder.lock_requirements import FOLDER, NAMES

every_lock = pytest.mark.parametrize("name", NAMES)


def asked(name: str) -> set[str]:
    """What an `.in` file asks for, with what it includes."""
    lines = (FOLDER / f"{name}.in").read_text().splitlines()
    included = [asked(Path(line.removeprefix("-r ")).stem) for line in lines if line.startswith("-r ")]
    own = {re.split("[=<>~!;]", line)[0].strip().replace("_", "-") for line in lines if line and not line.startswith(("#", "-r "))}
    return own.union(*included)


def pins(name: str) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (FOLDER / f"{name}.txt").read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


@every_lock
def test_what_is_asked_for_is_pinned_and_torch_is_left_to_the_machine(name: str) -> None:
    assert asked(name) - set(pins(name)) == {"torch"}


@every_lock
def test_a_lock_names_no_registry_and_no_build_of_cuda(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    assert not re.search(r"://|^--|^nvidia|^triton|^torch", text, flags=re.MULTILINE)


@every_lock
def test_the_locks_agree(name: str) -> None:
    everything = pins("dev")
    assert {package: pin for package, pin in pins(name).items() if everything.get(package) != pin} == {}


def test_this_environment_is_what_the_lock_says() -> None:
    assert {package: version(package) for package in pins("dev")} == pins("dev")


def test_chat_has_nothing_of_diffusion() -> None:
    assert {"diffusers", "av", "opencv-python-headless", "sentencepiece"} & set(pins("chat")) == set()


def test_torch_is_the_same_release_everywhere() -> None:
    (asked_for,) = re.findall(r"^torch==(\S+)$", (FOLDER / "shared.in").read_text(), flags=re.MULTILINE)
    (built,) = re.findall(r"^ARG TORCH=torch==(\S+)$", Path("Dockerfile").read_text(), flags=re.MULTILINE)
    assert asked_for == built == version("torch").partition("+")[0]
