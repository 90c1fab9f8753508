"""Compiles `builder/requirements/*.in`, which people write, to `*.txt`, which pin every package: `make requirements`.

Versions that are already pinned stay, unless UPGRADE is asked for. torch is in no lock, nor are the CUDA libraries that one of its builds
needs: it is installed before, in the build that fits the machine, and the locks hold for all of its builds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from builder.command_line import command_parser

FOLDER = Path(__file__).parent / "requirements"
NAMES = ("dev", "shared", "sdxl", "wan", "chat")
"""What is compiled. The first has everything in it, and the others take the same versions."""

HEADER = "# Made by `make requirements` from {name}.in. torch is installed before, in the build that fits the machine.\n"
_BUILD = re.compile(r"(torch|triton|cuda-[\w-]+|nvidia-[\w-]+)==")
_TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
_FORM = ("--no-header", "--annotation-style", "line", "--no-emit-index-url", "--quiet")


def compile_lock(name: str, *, upgrade: bool = False) -> str:
    """Resolves one `.in` file.

    Args:
        name: Of `NAMES`.
        upgrade: Whether to take the newest versions instead of those that are pinned.

    Returns:
        The text of the `.txt` file.

    Raises:
        subprocess.CalledProcessError: There is no solution; uv has said why on standard error.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, f"{name}.txt")
        if not upgrade and (old := FOLDER / output.name).exists():
            output.write_text(old.read_text(encoding="utf-8"), encoding="utf-8")
        agreed = () if name == NAMES[0] else ("--constraint", f"{NAMES[0]}.txt")
        command = ["uv", "pip", "compile", f"{name}.in", "--output-file", str(output), *agreed, *_TARGET, *_FORM]
        subprocess.run([sys.executable, "-m", *command], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
        text = output.read_text(encoding="utf-8").replace(f"-c {NAMES[0]}.txt, ", "").replace(f", -c {NAMES[0]}.txt", "")
        lines = [line for line in text.splitlines() if not _BUILD.match(line)]
    return HEADER.format(name=name) + "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("lock_requirements", __doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    options = parser.parse_args(arguments)
    for name in NAMES:
        try:
            text = compile_lock(name, upgrade=options.upgrade)
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
        (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{name}.txt  {text.count('==')} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
