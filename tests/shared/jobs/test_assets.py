"""Storing an output: a failed encoder stops the producer of its frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handlers.sdxl.request import SdxlRequest
from shared.jobs.assets import store_output
from shared.jobs.delivery.uploads import UploadSession
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.lifecycle import STEPS
from shared.jobs.recipe import VideoOutput
from shared.jobs.streaming.queue import StreamQueue
from shared.media.images import Pixels
from shared.storage.local_disk import LocalDisk
from shared.telemetry import StepTimer
from tests.shared.jobs.conftest import job


def store_clip(clip: VideoOutput, folder: Path) -> None:
    """Stores a clip in a folder."""
    request = SdxlRequest.parse(job().input, job_id="job")
    store_output(clip, 0, request, UploadSession(LocalDisk(folder), None, lambda draft, payload: None), CancelToken(60), StepTimer(STEPS))


def test_failed_encoding_abandons_the_frames(tmp_path: Path) -> None:
    frames: StreamQueue[Pixels] = StreamQueue()
    frames.put(np.zeros((64, 64, 3), np.uint8))
    frames.put(np.zeros((64, 96, 3), np.uint8))  # a different size
    with pytest.raises(ValueError, match="one size") as caught:
        store_clip(VideoOutput(frames, 8, 0), tmp_path)
    assert frames.abandoned
    assert caught.value.__traceback__ is not None  # which would keep the iterator alive


def test_failed_encoding_of_an_extra_abandons_the_frames(tmp_path: Path) -> None:
    frames: StreamQueue[Pixels] = StreamQueue()
    for width in (64, 4):  # a different size, too small for any encoder
        frames.put(np.zeros((64, width, 3), np.uint8))
    with pytest.raises((ValueError, OSError)) as caught:
        store_clip(VideoOutput(frames, 8, 0, extras=("webm",)), tmp_path)
    assert frames.abandoned
    assert caught.value.__traceback__ is not None
