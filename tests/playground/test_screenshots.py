"""Each screenshot of the documentation has an outline of the page, which the tests in the browser compare with the page as it is now."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
SHOWN = sorted(re.findall(r"\(images/(playground_\w+)\.png\)", (ROOT / "docs/playground.md").read_text(encoding="utf-8")))


def test_every_screenshot_is_shown_and_has_an_outline() -> None:
    assert SHOWN == sorted(path.stem for path in IMAGES.glob("playground_*.png")) == sorted(path.stem for path in IMAGES.glob("*.txt"))


def test_an_outline_is_of_the_screenshot_beside_it() -> None:
    digests = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in IMAGES.glob("playground_*.png")}
    assert digests == {path.stem: path.read_text(encoding="utf-8").partition("\n")[0] for path in IMAGES.glob("*.txt")}


def test_the_browser_compares_every_screenshot() -> None:
    script = (ROOT / "tests/playground/page/page.test.mjs").read_text(encoding="utf-8")
    assert sorted(f"playground_{name}" for name in re.findall(r'await picture\("(\w+)"\)', script)) == SHOWN
