"""Builds a handler's container image with docker, podman or buildah: `make image HANDLER=chat`."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from builder.command_line import command_parser
from builder.images.container_engine import ENGINES, NoContainerEngine, build_command, find_engine
from builder.images.pip_settings import pip_options
from handlers import HANDLERS

ROOT = Path(__file__).parents[2]
TARGETS = ("chat-vllm",)
"""Images besides those of the handlers: further targets of the Dockerfile."""


def version() -> str:
    """Returns the project's version, used as the image tag. `latest` is never used, because RunPod caches images by tag."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def image_tag(handler: str, registry: str = "") -> str:
    """Returns a handler's image reference: `sdxl-worker:0.1.0`, prefixed with `registry/` if one is given."""
    return f"{registry.rstrip('/') + '/' if registry else ''}{handler}-worker:{version()}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status, which is the engine's."""
    parser = command_parser("images.build", __doc__)
    parser.add_argument("handler", choices=(*HANDLERS, *TARGETS))
    parser.add_argument("--registry", default="", help="the registry and namespace it will be pushed to, such as docker.io/you")
    parser.add_argument("--engine", choices=tuple(ENGINES), help="default: the first that is installed")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="a build argument of the Dockerfile; repeatable")
    parser.add_argument("--pip-settings", action="store_true", help="use this machine's pip configuration in the build (podman, buildah)")
    parser.add_argument("--print", action="store_true", help="print the command without running it")
    options = parser.parse_args(arguments)
    if any("=" not in argument for argument in options.arg):
        parser.error("--arg must be NAME=VALUE")
    try:
        engine = options.engine or find_engine()
    except NoContainerEngine as error:
        print(error, file=sys.stderr)
        return 1
    if engine == "docker" and options.pip_settings:
        parser.error("--pip-settings mounts files into the build, which docker does not support: use --engine podman or buildah")
    target = ["--target", options.handler] if options.handler in TARGETS else []
    build_arguments = {"VERSION": version()} if target else {"HANDLER": options.handler, "VERSION": version()}
    build_arguments |= dict(argument.split("=", 1) for argument in options.arg)
    with tempfile.TemporaryDirectory() as scratch:
        mounts = pip_options(Path(scratch)) if options.pip_settings else []
        command = build_command(engine, ROOT, image_tag(options.handler, options.registry), build_arguments, [*target, *mounts])
        print(shlex.join(command), flush=True)
        return 0 if options.print else subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
