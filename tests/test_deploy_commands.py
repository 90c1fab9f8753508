"""The commands of docs/deploy.md that build, push and run images, executed with container engines that record what they are asked."""

from __future__ import annotations

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from builder.images.build import image_tag
from shared.settings import Settings
from tests.doubles.processes import ROOT, clean_environment

PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
BUILT = f"docker.io/you/{image_tag('sdxl')}"
RECORDING = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0") $*" >> "$RECORD"\n'
# `make image` without its prerequisite: the environment is that of these tests.
MAKE = 'make() { [ "$1" = models ] && echo "make models" >> "$RECORD" || command make --assume-old=setup "$@"; }\n'


class Engines:
    """Runs blocks of the page in the repository, with stand-ins for programs.

    Args:
        folder: For the stand-ins and their record.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.record = folder, folder / "record"
        for name in ("docker", "buildah", "debootstrap", "apt-get"):
            self.add(name, RECORDING)

    def add(self, name: str, script: str) -> None:
        """Puts a program first on the path."""
        (self._folder / name).write_text(script)
        (self._folder / name).chmod(0o755)

    def run(self, block: str) -> list[list[str]]:
        """Runs a block, and returns the commands that were recorded."""
        environment = clean_environment(RECORD=str(self.record))
        environment["PATH"] = f"{self._folder}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", MAKE + block], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [shlex.split(line) for line in self.record.read_text().splitlines() if not line.endswith(" info")]


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    return Engines(tmp_path)


def block_with(text: str) -> str:
    (block,) = (block for block in BLOCKS if text in block)
    return block


def build_arguments(command: list[str]) -> dict[str, str]:
    """The build arguments of a recorded build, all of which the Dockerfile declares."""
    values = [value for option, value in pairwise(command) if option == "--build-arg"]
    arguments = dict(value.split("=", 1) for value in values)
    assert set(arguments) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, flags=re.MULTILINE))
    return arguments


def test_the_image_that_is_pushed_is_the_one_that_was_built(engines: Engines) -> None:
    build, push = engines.run(block_with("docker push"))
    assert build[:2] == ["docker", "build"]
    assert build[build.index("--tag") + 1] == BUILT
    assert build_arguments(build)["HANDLER"] == "sdxl"
    assert push == ["docker", "push", BUILT]


def test_the_image_that_is_tried_has_the_small_models_where_a_worker_finds_its_volume(engines: Engines) -> None:
    models, run = engines.run(block_with("docker run"))
    assert models == ["make", "models"]
    assert run == ["docker", "run", "--rm", "--volume", f"{ROOT}/models:{Settings.model_fields['volume_models_dir'].default}", BUILT]


def test_without_a_registry_the_image_is_built_on_the_base_image_that_was_made(engines: Engines) -> None:
    for name in ("docker", "podman"):
        engines.add(name, "#!/bin/sh\nexit 1\n")
    install, *commands = engines.run(block_with("debootstrap"))
    assert install == ["apt-get", "install", "buildah", "debootstrap"]
    made, build = (command for command in commands if command[0] == "buildah")
    assert build_arguments(build) | {"VERSION": ""} == {"HANDLER": "chat", "VERSION": "", "BASE_IMAGE": made[-1]}


def test_baked_weights_take_the_token_as_a_secret_of_the_build(engines: Engines) -> None:
    (build,) = engines.run(block_with("WEIGHTS=baked"))
    assert build_arguments(build) == {"HANDLER": "sdxl", "WEIGHTS": "baked"}
    assert "id=hf_token,env=HF_TOKEN" in build
    assert "--mount=type=secret,id=hf_token" in DOCKERFILE
