"""Reference images that are embedded in the request as `data:` URLs."""

from __future__ import annotations

import base64
from collections import Counter

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from PIL import Image

from shared.contract.references import Reference
from shared.errors import ReferenceImageError
from shared.fetch import Fetcher
from shared.settings import Settings
from tests.fuzzing.exploration import examples, explore
from tests.fuzzing.images import SAMPLES, corrupted_images

_PREFIXES = (
    "data:image/png;base64,", "data:image/jpeg;base64,", "DATA:IMAGE/WEBP;BASE64,", "data:image/png;charset=x;base64,", "data:image/png,",
    "data:text/html;base64,", "data:image/svg+xml;base64,", "data:;base64,", "data:", "data:image/png;base64,data:image/png;base64,",
)  # fmt: skip
_LIMIT = 4096


@st.composite
def data_urls(draw: DrawFn) -> str:
    """Returns valid URLs, and URLs with a corrupted image, base64 text or prefix."""
    content = draw(st.sampled_from(list(SAMPLES.values())) | corrupted_images())
    text = base64.b64encode(content).decode()
    if draw(st.booleans()):
        place = draw(st.integers(0, len(text)))
        text = (
            text[:place]
            + draw(st.sampled_from(["", "=", "====", "\n", " ", "-_", "%2B", "\0", "\ud800", "é", "A" * 10_000]))
            + text[place:]
        )
    prefix = draw(st.sampled_from(_PREFIXES[:3]) | st.sampled_from(_PREFIXES))
    return prefix + text[: draw(st.none() | st.integers(0, len(text)))]


@examples(150, 5000)
def test_a_data_url_is_decoded_or_rejected_with_the_name_of_its_field(count: int) -> None:
    fetcher = Fetcher(Settings(reference_max_bytes=_LIMIT))
    outcomes: Counter[str] = Counter()

    def fetch(url: str) -> Image.Image | ReferenceImageError:
        try:
            return fetcher.fetch(Reference.parse(url), field="config.image", user_id="u")
        except ReferenceImageError as error:
            return error

    def check(url: str) -> None:
        end = fetch(url)
        outcomes[type(end).__name__] += 1
        if isinstance(end, Image.Image):
            assert end.mode == "RGB"
            assert len(url) < 2 * _LIMIT
            return
        assert end.message.startswith("`config.image` cannot be used: ")
        assert not end.retryable
        assert len(end.message) < 300
        assert end.message.isprintable()
        assert len(url) < 40 or url[-30:] not in end.message

    explore(data_urls(), check, count)
    assert min(outcomes.values()) > count / 20
