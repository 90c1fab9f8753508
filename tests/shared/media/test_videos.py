"""Encoding of clips."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest

from shared.media.images import Pixels
from shared.media.videos import Encoding, check_encoder, write_video


def moving(count: int, *, height: int = 64, width: int = 96) -> list[Pixels]:
    """Returns frames of drifting gradients, each different from the previous one."""
    y, x = np.mgrid[0:height, 0:width]
    return [np.stack([(x + 3 * i) % 256, (y * 2 + i) % 256, np.full_like(x, 10 * i % 256)], axis=-1).astype(np.uint8) for i in range(count)]


def decoded(path: Path) -> list[Pixels]:
    return list(iio.imread(path, plugin="pyav"))


def failing_after(frames: list[Pixels], error: Exception) -> Iterator[Pixels]:
    yield from frames
    raise error


def test_default_encoder_is_available() -> None:
    check_encoder()


@pytest.mark.parametrize(("count", "fps"), [(1, 24), (2, 8), (9, 16), (83, 24)])
def test_video_info_matches_the_file(tmp_path: Path, count: int, fps: int) -> None:
    path = tmp_path / "0.mp4"
    info = write_video(iter(moving(count)), path, fps=fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.time for frame in container.decode(video=0)]
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == Fraction(count, fps)
        assert stream.average_rate == fps
        assert (stream.width, stream.height) == (96, 64)
    assert times == pytest.approx([i / fps for i in range(count)])
    assert (info.width, info.height, info.frames, info.fps, info.size_bytes) == (96, 64, count, fps, path.stat().st_size)
    assert info.duration_seconds == pytest.approx(count / fps)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10])
def test_middle_frame_is_returned(tmp_path: Path, count: int) -> None:
    frames = moving(count)
    assert np.array_equal(write_video(iter(frames), tmp_path / "0.mp4", fps=8).middle, frames[count // 2])


def test_index_precedes_the_media_data(tmp_path: Path) -> None:
    write_video(moving(9), tmp_path / "0.mp4", fps=8)
    content = (tmp_path / "0.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_file_is_h264_yuv420p_with_bt709_tags(tmp_path: Path) -> None:
    write_video(moving(3), tmp_path / "0.mp4", fps=8)
    with av.open(str(tmp_path / "0.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)


def test_a_frame_is_a_single_slice(tmp_path: Path) -> None:
    """Slices cannot be predicted from each other: with eight of them, a clip took half as many bytes again."""
    write_video(moving(9, height=256, width=256), tmp_path / "0.mp4", fps=8)
    with av.open(str(tmp_path / "0.mp4")) as container:
        assert [slices(bytes(packet)) for packet in container.demux(video=0) if packet.size] == [1] * 9


def slices(packet: bytes) -> int:
    """Counts the slices of an H.264 frame in an MP4 file: units that are preceded by their length, of type 1 or 5."""
    count = 0
    while packet:
        length = int.from_bytes(packet[:4], "big")
        count += packet[4] & 31 in (1, 5)
        packet = packet[4 + length :]
    return count


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200)])
def test_colours_survive_encoding(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    write_video([np.full((64, 64, 3), colour, np.uint8)] * 4, tmp_path / "0.mp4", fps=8)
    assert np.abs(decoded(tmp_path / "0.mp4")[2][32, 32].astype(int) - colour).max() <= 4


def test_frames_stay_in_order(tmp_path: Path) -> None:
    frames = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(12)]
    write_video(frames, tmp_path / "0.mp4", fps=8)
    assert [round(float(frame.mean()) / 20) for frame in decoded(tmp_path / "0.mp4")] == list(range(12))


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    base = np.kron(noise.integers(0, 255, (8, 12, 3)), np.ones((8, 8, 1)))
    frames = [np.clip(np.roll(base, 3 * i, axis=1) + noise.normal(0, 4, base.shape), 0, 255).astype(np.uint8) for i in range(20)]
    files = set()
    for _ in range(8):
        # The previous content of memory must not matter.
        junk = [noise.bytes(int(size)) for size in noise.integers(1000, 3_000_000, 20)]
        del junk
        write_video(iter(frames), tmp_path / "0.mp4", fps=16)
        files.add((tmp_path / "0.mp4").read_bytes())
    assert len(files) == 1


def test_frames_are_encoded_while_they_arrive(tmp_path: Path) -> None:
    sizes: list[int] = []
    path = tmp_path / "0.mp4"

    def recorded() -> Iterator[Pixels]:
        for frame in moving(200):
            sizes.append(path.stat().st_size if path.exists() else 0)
            yield frame

    write_video(recorded(), path, fps=8)
    assert sizes[-1] > 0, "the file grew before the last frame"


@pytest.mark.parametrize("size", [(60, 64), (64, 100), (63, 64)])
def test_size_must_be_a_multiple_of_16(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        write_video([np.zeros((*size, 3), np.uint8)], tmp_path / "0.mp4", fps=8)


def test_clip_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_video([], tmp_path / "0.mp4", fps=8)


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one size"):
        write_video([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 96, 3), np.uint8)], tmp_path / "0.mp4", fps=8)


def test_frames_must_be_uint8(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        write_video([np.zeros((64, 64, 3), np.float32)], tmp_path / "0.mp4", fps=8)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_failed_frames_leave_no_file(tmp_path: Path, count: int) -> None:
    with pytest.raises(ZeroDivisionError):
        write_video(failing_after(moving(count), ZeroDivisionError()), tmp_path / "0.mp4", fps=8)
    assert list(tmp_path.iterdir()) == []


def files_open() -> list[str]:
    """Returns the paths of this process's open files."""
    return sorted(str(handle.readlink()) for handle in Path("/proc/self/fd").iterdir() if handle.is_symlink())


@pytest.mark.parametrize("count", [1, 60])
def test_failed_write_leaves_no_open_file(tmp_path: Path, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    full = tmp_path / "full.mp4"
    full.symlink_to("/dev/full")  # a full disk
    with pytest.raises(OSError, match="No space left"):
        write_video(moving(count), full, fps=8)
    with pytest.raises(ZeroDivisionError):
        write_video(failing_after(moving(count), ZeroDivisionError()), tmp_path / "0.mp4", fps=8)
    assert [name for name in files_open() if name == "/dev/full" or name.startswith(str(tmp_path))] == []
    assert write_video(moving(count), tmp_path / "0.mp4", fps=8).frames == count, "the failure does not affect the next clip"
    assert "Traceback" not in capfd.readouterr().err


def test_missing_folder_raises_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_video(moving(2), tmp_path / "missing" / "0.mp4", fps=8)


def test_quality_trades_size_for_fidelity(tmp_path: Path) -> None:
    frames = moving(9)
    sizes = [write_video(frames, tmp_path / "0.mp4", fps=8, encoding=Encoding(quality=quality)).size_bytes for quality in (10, 18, 40)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[-1]


def test_unavailable_encoder_is_reported() -> None:
    try:
        check_encoder(Encoding("h264_nvenc"))
    except RuntimeError as error:
        assert "h264_nvenc" in str(error)  # noqa: PT017 - a machine with such a GPU passes
        assert "VIDEO_ENCODER" in str(error)  # noqa: PT017
