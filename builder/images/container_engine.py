"""Container engines, as far as an image is built with them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ENGINES: Mapping[str, tuple[str, ...]] = {
    "docker": ("docker", "build"),
    "podman": ("podman", "build", "--layers"),
    # chroot needs neither a daemon nor namespaces, and so works inside a container as well.
    "buildah": ("buildah", "build", "--layers", "--isolation", "chroot"),
}
"""The beginning of each one's command, in the order in which they are looked for."""


class NoContainerEngine(Exception):
    """There is nothing on this machine that builds images. The message says what to install."""


def find_engine() -> str:
    """The first of `ENGINES` that is installed and answers: a client without its daemon does not.

    Raises:
        NoContainerEngine: None of them does.
    """
    for name in ENGINES:
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    raise NoContainerEngine(f"An image is built with {', '.join(ENGINES)}; none is here and answers. On Debian: apt-get install buildah")


def build_command(
    engine: str, context: Path, tag: str, arguments: Mapping[str, str], more: Sequence[str] = (), *, globals_: Sequence[str] = ()
) -> list[str]:
    """The command that builds the Dockerfile of a folder.

    Args:
        engine: Of `ENGINES`.
        context: The folder.
        tag: What the image is called.
        arguments: Build arguments of the Dockerfile.
        more: More options of the engine's build command.
        globals_: Options of the engine itself, which come before the command's name.
    """
    program, *rest = ENGINES[engine]
    given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    return [program, *globals_, *rest, "--file", str(context / "Dockerfile"), "--tag", tag, *given, *more, str(context)]
