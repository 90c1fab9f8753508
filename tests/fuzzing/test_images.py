"""Whatever is done to the bytes of a picture, it opens as one that may be used, or is refused in words."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image

from shared.media.images import MAX_PIXELS, MAX_RATIO, MAX_SIDE, MIN_SIDE, UnreadableImage, open_image
from tests.fuzzing.containers import join, split
from tests.fuzzing.exploration import examples, explore
from tests.fuzzing.images import SAMPLES, damaged

REASONS = ("it is not a PNG, JPEG or WebP image", "the file is damaged", "it has more than", "it is ")


@pytest.mark.parametrize("name", list(SAMPLES))
def test_a_whole_picture_opens_and_is_the_same_after_it_was_taken_apart(name: str) -> None:
    content = SAMPLES[name]
    assert join(*split(content)) == content
    assert open_image(content).mode == "RGB"


def opened(content: bytes) -> Image.Image | str:
    """The picture, or why there is none."""
    try:
        return open_image(content)
    except UnreadableImage as error:
        return str(error)


@examples(400, 8000)
def test_a_damaged_picture_opens_within_the_limits_or_is_refused_in_words(count: int) -> None:
    ends: Counter[str] = Counter()

    def check(content: bytes) -> None:
        picture = opened(content)
        if isinstance(picture, str):
            assert picture.startswith(REASONS)
            ends["refused"] += 1
            return
        short, long = sorted(picture.size)
        assert (picture.mode, len(picture.tobytes())) == ("RGB", 3 * short * long)
        assert MIN_SIDE <= short <= long <= MAX_SIDE
        assert short * long <= MAX_PIXELS
        assert long <= MAX_RATIO * short
        ends["opened"] += 1

    explore(damaged(), check, count)
    assert min(ends["opened"], ends["refused"]) > count / 10, "damage is neither always fatal nor without effect"


@examples(60, 3000)
def test_no_picture_takes_more_memory_than_the_largest_animation_that_is_allowed(count: int) -> None:
    command = [sys.executable, "-m", "tests.fuzzing.decoder_memory", str(count)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True).stdout
    rise, allowed = map(int, said.split())
    assert rise < allowed
