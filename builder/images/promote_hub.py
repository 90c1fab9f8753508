"""Selects the handler that this repository lists on RunPod's Hub: `python -m builder.images.promote_hub wan`.

The Hub reads one listing per repository, from `.runpod`. This copies `handlers/HANDLER/.runpod` there, together with a Dockerfile whose
default `HANDLER` is the selected one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from builder.command_line import command_parser
from builder.images.build import ROOT
from handlers import HANDLERS

_FILES = ("hub.json", "tests.json")
_DEFAULT = "ARG HANDLER=sdxl\n"


def hub_listing(handler: str) -> Mapping[str, str]:
    """Returns the files of `.runpod` for a handler: name to content."""
    listing = {name: (ROOT / "handlers" / handler / ".runpod" / name).read_text(encoding="utf-8") for name in _FILES}
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return listing | {"Dockerfile": dockerfile.replace(_DEFAULT, f"ARG HANDLER={handler}\n")}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("promote_hub", __doc__)
    parser.add_argument("handler", choices=HANDLERS)
    parser.add_argument("--to", type=Path, default=ROOT / ".runpod", metavar="DIR", help="default: .runpod")
    options = parser.parse_args(arguments)
    options.to.mkdir(exist_ok=True)
    for name, text in hub_listing(options.handler).items():
        (options.to / name).write_text(text, encoding="utf-8")
        print(options.to / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
