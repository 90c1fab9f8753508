"""Makes one handler the listing of this repository on RunPod's Hub: `python -m builder.images.promote_hub wan`.

The Hub reads one listing from a repository, in `.runpod`. Each handler has its own in `handlers/*/.runpod`; this copies it there, with a
Dockerfile that builds this handler's image unless it is told otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from builder.command_line import command_parser
from builder.images.build import HANDLERS, ROOT

_FILES = ("hub.json", "tests.json")
_DEFAULT = "ARG HANDLER=sdxl\n"


def hub_listing(handler: str) -> Mapping[str, str]:
    """What `.runpod` holds when a handler is the listing: name → text."""
    own = {name: (ROOT / "handlers" / handler / ".runpod" / name).read_text(encoding="utf-8") for name in _FILES}
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return own | {"Dockerfile": dockerfile.replace(_DEFAULT, f"ARG HANDLER={handler}\n")}


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
