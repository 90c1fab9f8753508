"""A corrupted image is either decoded within the limits or rejected with an error message."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image

from shared.media.containers import UnreadableImage
from shared.media.images import MAX_PIXELS, MAX_RATIO, MAX_SIDE, MIN_SIDE, open_image
from tests.fuzzing.containers import join, split
from tests.fuzzing.exploration import examples, explore
from tests.fuzzing.images import SAMPLES, corrupted_images

REASONS = ("it is not a PNG, JPEG or WebP image", "the file is damaged", "it has more than", "it is ")


@pytest.mark.parametrize("name", list(SAMPLES))
def test_a_valid_image_is_decoded_and_survives_splitting_and_joining(name: str) -> None:
    content = SAMPLES[name]
    assert join(*split(content)) == content
    assert open_image(content).mode == "RGB"


def decode(content: bytes) -> Image.Image | str:
    """Returns the image or the error message."""
    try:
        return open_image(content)
    except UnreadableImage as error:
        return str(error)


@examples(400, 8000)
def test_a_corrupted_image_is_decoded_within_the_limits_or_rejected(count: int) -> None:
    outcomes: Counter[str] = Counter()

    def check(content: bytes) -> None:
        image = decode(content)
        if isinstance(image, str):
            assert image.startswith(REASONS)
            outcomes["rejected"] += 1
            return
        short, long = sorted(image.size)
        assert (image.mode, len(image.tobytes())) == ("RGB", 3 * short * long)
        assert MIN_SIDE <= short <= long <= MAX_SIDE
        assert short * long <= MAX_PIXELS
        assert long <= MAX_RATIO * short
        outcomes["decoded"] += 1

    explore(corrupted_images(), check, count)
    assert min(outcomes["decoded"], outcomes["rejected"]) > count / 10, "both outcomes occur"


@examples(60, 3000)
def test_decoding_never_exceeds_the_memory_of_the_largest_allowed_animation(count: int) -> None:
    command = [sys.executable, "-m", "tests.fuzzing.decoder_memory", str(count)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True).stdout
    growth, limit = map(int, output.split())
    assert growth < limit
