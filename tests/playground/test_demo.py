"""The demo's requests are valid, and its contact sheet, GIF and transcript show the results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from builder.contract.schemas import ENDPOINTS
from handlers import HANDLERS
from playground.demo import OUTPUT, TITLES, load_jobs
from playground.forked import ForkServer, initial_environment
from playground.gallery import SCALE, contact_sheet, write_gif
from playground.gateway.server import Gateway, GatewayOptions
from playground.readme_pictures import MAX_BYTES, update_docs
from small_models.training.sdxl.captions import tokenizer_corpus
from small_models.training.sdxl.classifier import classify
from tests.doubles.processes import clean_environment

REQUESTS: dict[str, Any] = {endpoint.name: endpoint.request for endpoint in ENDPOINTS}


def image(path: Path, color: str) -> Path:
    Image.new("RGB", (64, 64), color).save(path)
    return path


def clip(path: Path, colors: list[str]) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        for color in colors:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.array(Image.new("RGB", (64, 64), color)), format="rgb24")))
        container.mux(stream.encode())
    return path


def test_the_demo_runs_every_handler() -> None:
    assert tuple(TITLES) == HANDLERS


@pytest.mark.parametrize("handler", TITLES)
def test_every_request_of_the_demo_is_valid_without_warnings(handler: str) -> None:
    for job in load_jobs(handler):
        assert REQUESTS[handler].parse(job, job_id=job["id"]).warnings == ()
        assert job["id"].replace("-", "").isalnum()


def test_the_demo_inherits_no_setting_of_a_real_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """In particular not OUTBOX_DIR: pending entries would be delivered to the demo's receiver and deleted."""
    page = (Path(__file__).parents[2] / "docs/environment.md").read_text("utf-8")
    variables = {name for row in page.splitlines() if row.startswith("| `") for name in re.findall("`([A-Z_]+)`", row.split("|")[1])}
    assert len(variables) > 50
    for name in (*variables, "RUNPOD_WEBHOOK_GET_JOB", "outbox_dir"):
        monkeypatch.setenv(name, "canary")
    options = GatewayOptions(Path("models"), OUTPUT, {"sdxl": "handlers.sdxl.handler"}, port=0)
    environment = Gateway(options, ForkServer(initial_environment())).worker_environment("sdxl", "worker")
    assert [name for name, value in environment.items() if value == "canary"] == []
    assert Path(environment["OUTBOX_DIR"]).is_relative_to(OUTPUT.absolute())


def test_the_demos_prompts_are_in_the_vocabulary_of_the_small_sdxl() -> None:
    vocabulary = set(" ".join(tokenizer_corpus()).replace(",", " ").split())
    words = {word for job in load_jobs("sdxl") for word in job["prompt"].replace(",", " ").split()}
    assert words <= vocabulary


def test_the_contact_sheet_shows_every_image_enlarged_with_its_caption(tmp_path: Path) -> None:
    colors = ["red", "lime", "blue", "yellow", "cyan"]
    sheet = contact_sheet([(image(tmp_path / f"{color}.png", color), f"a {color} image") for color in colors])
    side = 64 * SCALE
    for color in colors:
        solid = np.all(np.array(sheet) == np.array(Image.new("RGB", (1, 1), color)), axis=-1)
        rows, columns = np.nonzero(solid)
        assert solid.sum() == side * side == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    # Four columns, so the fifth image is below the first, with a dark caption in between.
    red, cyan = (
        np.argwhere(np.all(np.array(sheet) == np.array(Image.new("RGB", (1, 1), color)), axis=-1)).min(0) for color in ("red", "cyan")
    )
    assert red[1] == cyan[1]
    assert red[0] < cyan[0]
    caption = np.array(sheet.convert("L"))[red[0] + side + 2 : cyan[0] - 2, red[1] : red[1] + side]
    assert caption.min() < 64


def test_the_gif_has_the_clips_frames_and_frame_rate(tmp_path: Path) -> None:
    colors = ["red", "green", "blue", "white", "black"]
    assert write_gif(clip(tmp_path / "clip.mp4", colors), tmp_path / "clip.gif") == len(colors)
    with Image.open(tmp_path / "clip.gif") as animation:
        assert animation.n_frames == len(colors)  # type: ignore[attr-defined]
        assert animation.size == (64 * SCALE, 64 * SCALE)
        assert animation.info["loop"] == 0
        assert animation.info["duration"] in (120, 130)  # an eighth of a second; GIF durations have a resolution of 10 ms


def test_update_docs_copies_the_images_and_replaces_the_transcript(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    contact_sheet([(image(tmp_path / "red.png", "red"), "red")]).save(out / "contact_sheet.png")
    write_gif(clip(tmp_path / "clip.mp4", ["red", "blue"]), out / "clip.gif")
    (out / "demo.txt").write_text("new \\1\n", encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/demo.md").write_text("# Title\n```text\nold\n```\n```text\nother\n```\n", encoding="utf-8")
    update_docs(tmp_path)
    assert (tmp_path / "docs/demo.md").read_text(encoding="utf-8") == "# Title\n```text\nnew \\1\n```\n```text\nother\n```\n"
    with Image.open(tmp_path / "docs/images/demo.png") as copied, Image.open(out / "contact_sheet.png") as sheet:
        assert copied.size == sheet.size


def test_update_docs_writes_nothing_if_an_image_is_too_large(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    contact_sheet([(image(tmp_path / "red.png", "red"), "red")]).save(out / "contact_sheet.png")
    (out / "clip.gif").write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(ValueError, match=r"demo\.gif has 150,001 bytes"):
        update_docs(tmp_path)
    assert list((tmp_path / "docs/images").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_generates_images_that_match_their_prompts_and_a_conversation_with_context(models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "playground.demo", str(models)]
    environment = clean_environment(OUTPUT_DIR="elsewhere", SDXL_MODEL="nowhere")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("make playground"), "it says how to go on"
    assert (tmp_path / "out/demo.txt").read_text(encoding="utf-8").strip() in done.stdout
    turns = (tmp_path / "out/conversation.txt").read_text(encoding="utf-8").splitlines()
    assert [turn.partition(":")[0] for turn in turns] == ["you", "chat", "you", "chat"]
    assert "Paris" in turns[1]
    assert "Eiffel" in turns[3]
    for job in load_jobs("sdxl"):
        payload = json.loads((tmp_path / "out/demo" / job["id"] / "callback.json").read_bytes())
        assert len(payload["assets"]) == job["config"].get("num_images", 1)
        for asset in payload["assets"]:
            with Image.open(tmp_path / "out" / asset["url"]) as generated:
                prediction = classify(np.array(generated))
            # The default background is white.
            assert {prediction.color, prediction.shape, prediction.background} <= {*job["prompt"].replace(",", " ").split(), "white"}, job[
                "prompt"
            ]
