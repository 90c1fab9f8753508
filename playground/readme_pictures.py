"""Updates the demo's images in the README and its transcript in docs/demo.md: `python -m playground.readme_pictures`, after `make demo`.

Images are written to `docs/images/`; the transcript replaces the first text block of `docs/demo.md`.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from PIL import Image

from playground.demo import ANIMATION, CONTACT_SHEET, ROOT, TRANSCRIPT

MAX_BYTES = 150_000
_BLOCK = re.compile(r"(?<=```text\n).*?(?=```)", re.DOTALL)


def update_docs(root: Path = ROOT) -> list[Path]:
    """Copies the demo's results into a checkout.

    Args:
        root: The checkout, whose docs/demo.md has a text block.

    Returns:
        The written files.

    Raises:
        FileNotFoundError: The demo has not completed.
        ValueError: An image is too large for a web page, or docs/demo.md has no text block. Nothing is written then.
    """
    sheet, animation, page = root / "docs/images/demo.png", root / "docs/images/demo.gif", root / "docs/demo.md"
    sheet.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    with Image.open(root / CONTACT_SHEET) as image:
        image.quantize(256).save(encoded, "PNG", optimize=True)  # half the size without a visible difference
    images = {sheet: encoded.getvalue(), animation: (root / ANIMATION).read_bytes()}
    for path, content in images.items():
        if len(content) > MAX_BYTES:
            raise ValueError(f"{path.name} has {len(content):,} bytes, more than the limit of {MAX_BYTES:,} for images of the README.")
    transcript = (root / TRANSCRIPT).read_text(encoding="utf-8")
    text, count = _BLOCK.subn(lambda _: transcript, page.read_text(encoding="utf-8"), count=1)
    if count == 0:
        raise ValueError(f"{page.name} has no text block for the demo's transcript.")
    for path, content in images.items():
        path.write_bytes(content)
    page.write_text(text, encoding="utf-8")
    return [sheet, animation, page]


def main() -> int:
    """Runs the command and returns the exit status."""
    try:
        for path in update_docs():
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
