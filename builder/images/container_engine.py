"""Container engines: which one is available, and its build command."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ENGINES: Mapping[str, tuple[str, ...]] = {
    "docker": ("docker", "build"),
    "podman": ("podman", "build", "--layers"),
    # chroot isolation needs neither a daemon nor namespaces, so it also works inside a container.
    "buildah": ("buildah", "build", "--layers", "--isolation", "chroot"),
}
"""Each engine's build command, in order of preference."""


class NoContainerEngine(Exception):
    """No container engine is available. The message says what to install."""


def find_engine() -> str:
    """Returns the first of `ENGINES` that is installed and responds; a client without its daemon does not.

    Raises:
        NoContainerEngine: None is available.
    """
    for name in ENGINES:
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    raise NoContainerEngine(f"No container engine is available ({', '.join(ENGINES)}). On Debian: apt-get install buildah")


def build_command(
    engine: str,
    context: Path,
    tag: str,
    arguments: Mapping[str, str],
    build_options: Sequence[str] = (),
    *,
    global_options: Sequence[str] = (),
) -> list[str]:
    """Returns the command that builds the Dockerfile of a build context.

    Args:
        engine: One of `ENGINES`.
        context: The build context.
        tag: The image reference.
        arguments: Build arguments of the Dockerfile.
        build_options: Additional options of the engine's build command.
        global_options: Options of the engine itself, placed before the subcommand.
    """
    program, *rest = ENGINES[engine]
    build_arguments = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    return [
        program,
        *global_options,
        *rest,
        "--file",
        str(context / "Dockerfile"),
        "--tag",
        tag,
        *build_arguments,
        *build_options,
        str(context),
    ]
