"""Keeps what the demo made for the README: `python -m playground.readme_pictures`, after `make demo`.

The pictures go to `docs/images/`, and what the demo printed into the first block of text in the README.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from PIL import Image

from playground.demo import ANIMATION, ROOT, SHEET, TRANSCRIPT

MOST_BYTES = 150_000
_BLOCK = re.compile(r"(?<=```text\n).*?(?=```)", re.DOTALL)


def keep(root: Path = ROOT) -> list[Path]:
    """Copies the demo's results into a checkout.

    Args:
        root: The checkout, whose README has a block of text.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: The demo has not run to its end.
        ValueError: A picture is larger than a page should load, or the README has no block of text. Nothing is written then.
    """
    sheet, animation, readme = root / "docs/images/demo.png", root / "docs/images/demo.gif", root / "README.md"
    sheet.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    with Image.open(root / SHEET) as picture:
        picture.quantize(256).save(encoded, "PNG", optimize=True)  # half of the bytes, and flat figures look the same
    kept = {sheet: encoded.getvalue(), animation: (root / ANIMATION).read_bytes()}
    for path, content in kept.items():
        if len(content) > MOST_BYTES:
            raise ValueError(f"{path.name} would have {len(content):,} bytes; the README's pictures have at most {MOST_BYTES:,}.")
    shown = (root / TRANSCRIPT).read_text(encoding="utf-8")
    text, count = _BLOCK.subn(lambda _: shown, readme.read_text(encoding="utf-8"), count=1)
    if count == 0:
        raise ValueError("The README has no block of text to put the demo's output into.")
    for path, content in kept.items():
        path.write_bytes(content)
    readme.write_text(text, encoding="utf-8")
    return [sheet, animation, readme]


def main() -> int:
    """Runs the command and returns the exit status."""
    try:
        for path in keep():
            print(path.relative_to(ROOT))
    except FileNotFoundError as error:
        print(f"{error.filename} is missing. Run `make demo` first.", file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
