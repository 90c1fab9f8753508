"""The lock files pin every package, agree with each other, and describe this environment."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from builder.lock_requirements import FOLDER, NAMES

every_lock = pytest.mark.parametrize("name", NAMES)


def requested(name: str) -> set[str]:
    """The packages that an `.in` file and its includes request."""
    lines = (FOLDER / f"{name}.in").read_text().splitlines()
    included = [requested(Path(line.removeprefix("-r ")).stem) for line in lines if line.startswith("-r ")]
    own = {re.split("[=<>~!;]", line)[0].strip().replace("_", "-") for line in lines if line and not line.startswith(("#", "-r "))}
    return own.union(*included)


def pins(name: str) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (FOLDER / f"{name}.txt").read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


@every_lock
def test_every_requested_package_is_pinned_except_torch(name: str) -> None:
    assert requested(name) - set(pins(name)) == {"torch"}


@every_lock
def test_a_lock_names_no_index_url_and_no_cuda_package(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    assert not re.search(r"://|^--|^nvidia|^triton|^torch", text, flags=re.MULTILINE)


@every_lock
def test_every_lock_agrees_with_the_dev_lock(name: str) -> None:
    dev = pins("dev")
    assert {package: pin for package, pin in pins(name).items() if dev.get(package) != pin} == {}


def test_this_environment_matches_the_dev_lock() -> None:
    assert {package: version(package) for package in pins("dev")} == pins("dev")


def test_chat_has_no_diffusion_packages() -> None:
    assert {"diffusers", "av", "opencv-python-headless", "sentencepiece"} & set(pins("chat")) == set()


def test_torch_is_the_same_release_everywhere() -> None:
    (required,) = re.findall(r"^torch==(\S+)$", (FOLDER / "shared.in").read_text(), flags=re.MULTILINE)
    (built,) = re.findall(r"^ARG TORCH=torch==(\S+)$", Path("Dockerfile").read_text(), flags=re.MULTILINE)
    assert required == built == version("torch").partition("+")[0]
