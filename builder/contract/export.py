"""Writes `schemas/` and the generated pages of `docs/`: `python -m builder.contract.export`. `--check` only reports stale files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from builder.command_line import command_parser
from builder.contract.deploy_page import deploy_page
from builder.contract.pages import contract_page, environment_page, errors_page
from builder.contract.schemas import DIALECT, ENDPOINTS, Node, openai_schema, payload_schema, request_schema
from builder.contract.sdxl_page import sdxl_page
from builder.contract.types import has_converter, typescript

ROOT = Path(__file__).parents[2]
EDGE_FUNCTIONS = "supabase/functions/_shared/contract"
"""A deployed edge function contains only files of its own folder."""


def generated_files() -> Mapping[str, str]:
    """Returns the generated files that do not require Node: path to content."""
    files = {
        "docs/contract.md": contract_page(),
        "docs/errors.md": errors_page(),
        "docs/environment.md": environment_page(),
        "docs/handlers/sdxl.md": sdxl_page(),
        "docs/deploy.md": deploy_page(),
    }
    for endpoint in ENDPOINTS:
        request = _json(request_schema(endpoint.request))
        files[f"schemas/{endpoint.name}.request.schema.json"] = request
        files[f"{EDGE_FUNCTIONS}/{endpoint.name}.request.schema.json"] = request
        files[f"schemas/{endpoint.name}.payload.schema.json"] = _json(payload_schema(endpoint))
    files["schemas/chat.openai.schema.json"] = _json(openai_schema())
    return files


def stale_files(files: Mapping[str, str], root: Path = ROOT) -> list[str]:
    """Returns the paths of files that are missing or whose content differs."""
    return [path for path, content in files.items() if not (root / path).is_file() or (root / path).read_text("utf-8") != content]


def main() -> int:
    """Returns 1 if a file is stale under `--check`, or cannot be generated."""
    parser = command_parser("contract.export", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file is stale")
    check = parser.parse_args().check
    if not has_converter():
        print("The TypeScript converter is missing: run `make setup`.", file=sys.stderr)
        return 1
    types = typescript()
    files = {**generated_files(), "schemas/contract.ts": types, f"{EDGE_FUNCTIONS}/contract.ts": types}
    changed = stale_files(files)
    for path in changed:
        print(f"stale: {path}" if check else f"wrote {path}")
        if not check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(files[path], "utf-8")
    return 1 if check and changed else 0


def _json(schema: Node) -> str:
    return json.dumps({"$schema": DIALECT, **schema}, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
