"""Compares the way from a decoder's tensor to a file with diffusers': `make bench-encoding`, or `python -m benchmarks.encoding`.

Images: six of 1024 × 1024 to PNG, against `VaeImageProcessor` and Pillow's default. Clips: 81 frames of 480 × 832 to MP4, against
`VideoProcessor` and `export_to_video` with imageio, which takes x264's preset `medium` at CRF 25. Both ways alternate in one process, and
the ratio is the median over the rounds, so that a busy machine affects both alike. The pictures are those of `docs/images/demo.png`,
enlarged, with grain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import Colorspace
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import export_to_video
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from shared.jobs.execution.threads import job_executor
from shared.jobs.streaming.queue import StreamQueue
from shared.media.encoding import encode_image
from shared.media.images import Pixels
from shared.media.videos import Encoding, write_video
from shared.models.pixels import decoded_to_pixels

PICTURE = Path(__file__).parents[1] / "docs/images/demo.png"
SIZE, IMAGES = 1024, 6
HEIGHT, WIDTH, FRAMES, FPS = 832, 480, 81, 16
THEIR_QUALITY = 25
"""The rate factor that `export_to_video` uses."""

_DECODED_AT_ONCE = 4  # frames; WAN's decoder yields as many


Way = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What prepares the input of a way to encode, and the way itself. Only this is measured."""


@dataclass(frozen=True)
class Comparison:
    """This worker against diffusers.

    Attributes:
        speed: How many times faster, the median over the rounds.
        size: Bytes, as a multiple of diffusers'.
        psnr: Decibels above diffusers', compared with the decoder's output; 0 where both are exact.
    """

    speed: float
    size: float
    psnr: float = 0.0


def main(arguments: list[str] | None = None) -> int:
    """Prints the comparisons as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoding", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=SIZE, help="of the images, in pixels")
    parser.add_argument("--frames", type=int, default=FRAMES)
    options = parser.parse_args(arguments)
    print(json.dumps({name: asdict(found) for name, found in compare(options.rounds, options.side, options.frames).items()}, indent=2))
    return 0


def compare(rounds: int, side: int = SIZE, frames: int = FRAMES) -> dict[str, Comparison]:
    """Returns all comparisons by name."""
    torch.set_num_threads(1)  # threads that spin make both ways slow on a busy machine, and a worker converts on its GPU
    return {"png": compare_png(rounds, side)} | {
        f"mp4_quality_{quality}": compare_mp4(rounds, frames, Encoding(quality=quality)) for quality in (THEIR_QUALITY, Encoding().quality)
    }


def compare_png(rounds: int, side: int = SIZE) -> Comparison:
    """Compares six images of side × side.

    Raises:
        SystemExit: The files do not have the same pixels.
    """
    decoded = torch.cat([decoder_output(side, side, seed, shift=seed / IMAGES) for seed in range(IMAGES)])
    speed, ours, theirs = _alternate((partial(_slices, decoded, 1), _write_png), (decoded.clone, _write_png_with_diffusers), rounds)
    if not all(np.array_equal(_pixels(first), _pixels(second)) for first, second in zip(ours, theirs, strict=True)):
        raise SystemExit("the files have other pixels than diffusers'")
    return Comparison(speed, sum(map(len, ours)) / sum(map(len, theirs)))


def compare_mp4(rounds: int, frames: int, encoding: Encoding) -> Comparison:
    """Compares a clip of 480 × 832."""
    decoded = torch.cat([decoder_output(HEIGHT, WIDTH, seed, shift=seed / frames) for seed in range(frames)])
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "ours.mp4"), Path(folder, "theirs.mp4")
        ours = (partial(_slices, decoded, _DECODED_AT_ONCE), lambda chunks: _write_clip(chunks, first, encoding))
        theirs = (lambda: decoded.transpose(0, 1)[None].clone(), lambda clip: _write_clip_with_diffusers(clip, second))
        speed, _, _ = _alternate(ours, theirs, rounds)
        truth = decoded_to_pixels(decoded)
        psnr = _psnr(first, truth, Colorspace.ITU709) - _psnr(second, truth, Colorspace.ITU601)
        return Comparison(speed, first.stat().st_size / second.stat().st_size, psnr)


def _alternate(ours: Way, theirs: Way, rounds: int) -> tuple[float, Any, Any]:
    """Returns how many times faster the first way is, and what both return. The first round warms up."""
    ratios = []
    for _ in range(rounds + 1):
        (first, ours_result), (second, theirs_result) = _timed(ours), _timed(theirs)
        ratios.append(second / first)
    return statistics.median(ratios[1:]), ours_result, theirs_result


def _timed(way: Way) -> tuple[float, Any]:
    prepare, work = way
    prepared = prepare()
    started = time.perf_counter()
    result = work(prepared)
    return time.perf_counter() - started, result


def _write_png(images: Sequence[Tensor]) -> list[bytes]:
    """As the lifecycle of a job does: each image is encoded on a thread while the next is converted."""
    with job_executor() as threads:
        encoding = [threads.submit(encode_image, decoded_to_pixels(image)[0], "png") for image in images]
        return [future.result() for future in encoding]


def _write_png_with_diffusers(decoded: Tensor) -> list[bytes]:
    files = []
    for image in VaeImageProcessor().postprocess(decoded, output_type="pil"):
        buffer = BytesIO()
        image.save(buffer, format="PNG")
        files.append(buffer.getvalue())
    return files


def _write_clip(chunks: Sequence[Tensor], path: Path, encoding: Encoding) -> None:
    """As the WAN recipe does: frames are encoded on a thread while the next are converted."""
    with ThreadPoolExecutor(1) as thread:
        queue = StreamQueue[Pixels]()
        writing = thread.submit(write_video, queue, path, fps=FPS, encoding=encoding)
        with queue:
            for chunk in chunks:
                for frame in decoded_to_pixels(chunk):
                    queue.put(frame)
        writing.result()


def _write_clip_with_diffusers(clip: Tensor, path: Path) -> None:
    (frames,) = VideoProcessor().postprocess_video(clip, output_type="np")
    export_to_video(list(frames), str(path), fps=FPS)


def _slices(decoded: Tensor, count: int) -> list[Tensor]:
    """What a decoder yields, one after the other. Copies, because the conversion overwrites them, as it does a decoder's output."""
    return [part.clone() for part in torch.split(decoded, count)]


def decoder_output(height: int, width: int, seed: int, *, shift: float = 0.0) -> Tensor:
    """Returns a picture as 1 × 3 × height × width in -1 … 1: a part of an enlarged one, with grain.

    Args:
        height: Pixels.
        width: Pixels.
        seed: Of the grain.
        shift: Where the part is, from 0 (top left) to 1 (bottom right).
    """
    with Image.open(PICTURE) as picture:
        part_width = min(picture.width, picture.height * width / height) / 2
        left, top = (shift * (side - part) for side, part in zip(picture.size, (part_width, part_width * height / width), strict=True))
        box = (left, top, left + part_width, top + part_width * height / width)
        part = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, box), np.float32)
    grain = np.random.default_rng(seed).normal(0, 1.5, (height, width, 1)).astype(np.float32)
    return torch.from_numpy((part + grain) / 127.5 - 1).permute(2, 0, 1)[None].contiguous()


def _pixels(file: bytes) -> Pixels:
    with Image.open(BytesIO(file)) as image:
        return np.asarray(image)


def _psnr(path: Path, truth: Pixels, colorspace: Colorspace) -> float:
    """Returns the peak signal-to-noise ratio of a clip in decibels, over all frames."""
    with av.open(str(path)) as container:
        errors = [_squared_error(frame, pixels, colorspace) for frame, pixels in zip(container.decode(video=0), truth, strict=True)]
    return float(10 * np.log10(255**2 / np.mean(errors)))


def _squared_error(frame: av.VideoFrame, pixels: Pixels, colorspace: Colorspace) -> float:
    rgb = frame.reformat(format="rgb24", src_colorspace=colorspace).to_ndarray()
    return float(np.mean((rgb.astype(np.float32) - pixels) ** 2))


if __name__ == "__main__":
    raise SystemExit(main())
