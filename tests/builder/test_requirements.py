"""The lock files pin every package, agree with each other, and describe this environment."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from builder.lock_requirements import FOLDER, NAMES, TORCH

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


def torch_release(file: str) -> str:
    release: str
    (release,) = re.findall(r"^torch==([\d.]+)", (FOLDER / file).read_text(), flags=re.MULTILINE)
    return release


def test_developers_and_ci_have_the_release_of_torch_of_the_images_for_cuda_13() -> None:
    files = ("shared.in", "torch-cpu.txt", "torch-cu130.in", "torch-cu130.txt")
    assert {torch_release(file) for file in files} == {version("torch").partition("+")[0]}


@pytest.mark.parametrize("name", TORCH)
def test_a_lock_of_torch_has_a_hash_for_everything_and_cuda_libraries_of_its_version_alone(name: str) -> None:
    packages = re.findall(r"^\S+==.*(?:\n .*)*", (FOLDER / f"{name}.txt").read_text(), flags=re.MULTILINE)
    names = {package.partition("==")[0] for package in packages}
    assert all("--hash=sha256:" in package for package in packages)
    assert {"torch", "triton"} <= names
    assert any(package.startswith("nvidia-cudnn-cu") for package in names)
    major = name.removeprefix("torch-cu")[:2]
    assert {found for package in names for found in re.findall(r"-cu(\d+)$", package)} == {major}
    (bindings,) = (package.partition("==")[2] for package in packages if package.startswith("cuda-bindings=="))
    assert bindings.startswith(f"{major}.")
    assert names & set(pins("dev")) == set()


def test_lock_files_are_installed_as_they_are() -> None:
    """spandrel asks for torchvision, which only imports beside one build of torch, and is not needed."""
    for file in ("Dockerfile", "Makefile"):
        installs = re.findall(r"pip install (?:--quiet )?(.*)--requirement", Path(file).read_text())
        assert installs
        assert set(installs) <= {"--no-deps ", "--require-hashes "}
    assert all("torchvision" not in pins(name) for name in NAMES)
