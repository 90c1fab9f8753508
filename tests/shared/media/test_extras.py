"""Extras of a clip: poster, WebM, GIF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from shared.media.extras import EXTRA_TYPES, ExtraKind, extra_path, tee_extras
from shared.media.images import Pixels
from tests.shared.media.test_videos import moving

ALL: tuple[ExtraKind, ...] = ("poster", "webm", "gif")


def written(folder: Path, frames: list[Pixels], *kinds: ExtraKind, fps: int = 8) -> list[Path]:
    assert all(passed is frame for passed, frame in zip(tee_extras(iter(frames), kinds, folder, fps=fps), frames, strict=True))
    return [extra_path(folder, kind) for kind in kinds]


def test_poster_is_the_first_frame_losslessly(tmp_path: Path) -> None:
    frames = moving(5)
    (path,) = written(tmp_path, frames, "poster")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), frames[0])


@pytest.mark.parametrize(("count", "fps"), [(1, 24), (2, 8), (9, 16), (83, 24)])
def test_webm_has_every_frame_with_its_timestamp(tmp_path: Path, count: int, fps: int) -> None:
    frames = moving(count)
    (path,) = written(tmp_path, frames, "webm", fps=fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("vp9", "yuv420p")
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)
        times = [frame.time for frame in container.decode(stream)]
    assert times == pytest.approx([index / fps for index in range(count)], abs=1e-3)
    shown = iio.imread(path, plugin="pyav")
    assert len(shown) == count
    middle = shown[count // 2].astype(int)
    assert np.abs(middle - frames[count // 2]).mean() < 12  # yuv420p halves the chroma resolution


@pytest.mark.parametrize(("count", "fps"), [(1, 24), (7, 8), (83, 24), (10, 13)])
def test_gif_has_the_clips_duration_and_at_most_twelve_frames_per_second(tmp_path: Path, count: int, fps: int) -> None:
    (path,) = written(tmp_path, moving(count), "gif", fps=fps)
    with Image.open(path) as image:
        lengths = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            lengths.append(image.info["duration"])
    assert sum(lengths) == pytest.approx(1000 * count / fps, abs=5)
    assert len(lengths) <= 12 * count / fps + 1


def test_gif_is_small_loops_and_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    (path,) = written(tmp_path, moving(4, height=480, width=832), "gif")
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.size == (320, 185)
        assert image.info["loop"] == 0


def test_gif_resembles_the_clip(tmp_path: Path) -> None:
    frames = moving(4)
    (path,) = written(tmp_path, frames, "gif")
    with Image.open(path) as image:
        image.seek(3)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames[3]).mean() < 12


@pytest.mark.parametrize("kind", ALL)
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, kind: ExtraKind) -> None:
    contents = set()
    for attempt in range(3):
        (tmp_path / str(attempt)).mkdir()
        (path,) = written(tmp_path / str(attempt), moving(20), kind)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_frames_are_streamed(tmp_path: Path) -> None:
    consumed: list[int] = []

    def watched() -> Iterator[Pixels]:
        for index, frame in enumerate(moving(4)):
            consumed.append(index)
            yield frame

    passed = tee_extras(watched(), ALL, tmp_path, fps=8)
    next(passed)
    assert consumed == [0]
    assert len(list(passed)) == 3


def test_gif_is_not_written_if_the_frames_fail(tmp_path: Path) -> None:
    def breaking() -> Iterator[Pixels]:
        yield from moving(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(tee_extras(breaking(), ALL, tmp_path, fps=8))
    assert not extra_path(tmp_path, "gif").exists()


def test_extras_have_distinct_keys_and_mime_types() -> None:
    assert len({extra.extension for extra in EXTRA_TYPES.values()} | {"mp4", "thumb.webp"}) == len(EXTRA_TYPES) + 2
    assert {kind: extra.mime for kind, extra in EXTRA_TYPES.items()} == {"poster": "image/png", "webm": "video/webm", "gif": "image/gif"}
