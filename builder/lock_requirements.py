"""Compiles the hand-written `builder/requirements/*.in` to fully pinned `*.txt` lock files: `make requirements`.

Existing pins are kept unless UPGRADE is set. torch and the CUDA libraries of its wheels have lock files of their own, one for each CUDA
version, with hashes; the other lock files are valid for all of them. torch is installed first, in the build that fits the machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from builder.command_line import command_parser
from handlers import HANDLERS

FOLDER = Path(__file__).parent / "requirements"
NAMES = ("dev", "shared", *HANDLERS)
"""The compiled files. `dev` contains every package; the others are constrained to its versions."""

TORCH = ("torch-cu128", "torch-cu130")
"""The compiled files with a build of torch and its CUDA libraries."""

LEFT_OUT = ("torchvision",)
"""spandrel asks for it. Its wheels fit one build of torch each, and transformers would prefer it to Pillow."""

HEADER = "# Made by `make requirements` from {name}.in. torch is installed before, in the build that fits the machine.\n"
_EXCLUDED = re.compile(r"(torch|triton|cuda-[\w-]+|nvidia-[\w-]+)==")
_TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
_FORMAT = ("--no-header", "--annotation-style", "line", "--no-emit-index-url", "--quiet")
_TORCH_HEADER = "# Made by `make requirements` from {name}.in: torch and its CUDA libraries. Everything else is in the other files.\n"


def compile_lock(name: str, *, upgrade: bool = False) -> str:
    """Resolves one `.in` file.

    Args:
        name: One of `NAMES` or `TORCH`.
        upgrade: Whether to take the newest versions instead of the pinned ones.

    Returns:
        The content of the `.txt` file.

    Raises:
        subprocess.CalledProcessError: The resolution failed; uv has printed the reason to standard error.
    """
    is_torch = name in TORCH
    options = (*_TARGET, *_FORMAT, *(("--generate-hashes",) if is_torch else ()))
    text = _resolve(name, options, upgrade=upgrade).replace(f"-c {NAMES[0]}.txt, ", "").replace(f", -c {NAMES[0]}.txt", "")
    # A package and, indented, its hashes.
    packages = re.findall(r"^\S.*(?:\n[ \t]+.*)*", text, flags=re.MULTILINE)
    kept = [package for package in packages if bool(_EXCLUDED.match(package)) == is_torch]
    return (_TORCH_HEADER if is_torch else HEADER).format(name=name) + "\n".join(kept) + "\n"


def _resolve(name: str, options: tuple[str, ...], *, upgrade: bool) -> str:
    """Returns what uv makes of an `.in` file, starting from the current lock file unless it is upgraded."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, f"{name}.txt")
        if not upgrade and (current := FOLDER / output.name).exists():
            output.write_text(current.read_text(encoding="utf-8"), encoding="utf-8")
        constraint = () if name == NAMES[0] else ("--constraint", f"{NAMES[0]}.txt")
        excludes = Path(scratch, "excludes.txt")
        excludes.write_text("\n".join(LEFT_OUT), encoding="utf-8")
        command = ["uv", "pip", "compile", f"{name}.in", "--output-file", str(output), *constraint, "--excludes", str(excludes), *options]
        subprocess.run([sys.executable, "-m", *command], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
        return output.read_text(encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("lock_requirements", __doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that satisfy the .in files")
    options = parser.parse_args(arguments)
    for name in (*NAMES, *TORCH):
        try:
            text = compile_lock(name, upgrade=options.upgrade)
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
        (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{name}.txt  {text.count('==')} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
