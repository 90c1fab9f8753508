"""The demo: what it asks for is valid, and what a person sees of it is what was made."""

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

from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from handlers.wan.request import WanRequest
from playground.callback_receiver import CallbackReceiver
from playground.demo import OUTPUT, TITLES, requests, worker_environment
from playground.gallery import ENLARGED, contact_sheet, preview
from playground.readme_pictures import MOST_BYTES, keep
from small_models.training.sdxl.captions import tokenizer_corpus
from small_models.training.sdxl.classifier import classify
from tests.doubles.processes import clean_environment

REQUESTS: dict[str, Any] = {"sdxl": SdxlRequest, "wan": WanRequest, "chat": ChatRequest}


def picture(path: Path, color: str) -> Path:
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


@pytest.mark.parametrize("handler", TITLES)
def test_every_job_of_the_demo_is_valid_without_a_warning(handler: str) -> None:
    for job in requests(handler):
        assert REQUESTS[handler].parse(job, job_id=job["id"]).warnings == ()
        assert job["id"].replace("-", "").isalnum()


def test_nothing_of_a_real_projects_configuration_reaches_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least of all its outbox: what waits there would be delivered to nobody, and be gone."""
    page = (Path(__file__).parents[2] / "docs/environment.md").read_text("utf-8")
    variables = {name for row in page.splitlines() if row.startswith("| `") for name in re.findall("`([A-Z_]+)`", row.split("|")[1])}
    assert len(variables) > 50
    for name in (*variables, "RUNPOD_WEBHOOK_GET_JOB", "outbox_dir"):
        monkeypatch.setenv(name, "canary")
    with CallbackReceiver("secret") as receiver:
        environment = worker_environment(Path("models"), receiver)
    assert [name for name, value in environment.items() if value == "canary"] == []
    assert Path(environment["OUTBOX_DIR"]).is_relative_to(OUTPUT.absolute())


def test_the_demo_asks_for_pictures_in_words_that_the_small_model_knows() -> None:
    known = set(" ".join(tokenizer_corpus()).replace(",", " ").split())
    words = {word for job in requests("sdxl") for word in job["prompt"].replace(",", " ").split()}
    assert words <= known


def test_the_contact_sheet_has_each_picture_enlarged_in_its_place(tmp_path: Path) -> None:
    colors = ["red", "lime", "blue", "yellow", "cyan"]
    sheet = contact_sheet([(picture(tmp_path / f"{color}.png", color), f"a {color} picture") for color in colors])
    side = 64 * ENLARGED
    for color in colors:
        solid = np.all(np.array(sheet) == np.array(Image.new("RGB", (1, 1), color)), axis=-1)
        rows, columns = np.nonzero(solid)
        assert solid.sum() == side * side == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    # Four in a row, the fifth below the first, and a caption in dark letters below each.
    red, cyan = (
        np.argwhere(np.all(np.array(sheet) == np.array(Image.new("RGB", (1, 1), color)), axis=-1)).min(0) for color in ("red", "cyan")
    )
    assert red[1] == cyan[1]
    assert red[0] < cyan[0]
    caption = np.array(sheet.convert("L"))[red[0] + side + 2 : cyan[0] - 2, red[1] : red[1] + side]
    assert caption.min() < 64


def test_the_animation_has_the_clips_frames_at_the_clips_pace(tmp_path: Path) -> None:
    colors = ["red", "green", "blue", "white", "black"]
    assert preview(clip(tmp_path / "clip.mp4", colors), tmp_path / "clip.gif") == len(colors)
    with Image.open(tmp_path / "clip.gif") as animation:
        assert animation.n_frames == len(colors)  # type: ignore[attr-defined]
        assert animation.size == (64 * ENLARGED, 64 * ENLARGED)
        assert animation.info["loop"] == 0
        assert animation.info["duration"] in (120, 130)  # an eighth of a second, in the hundredths that a GIF counts in


def test_what_the_demo_made_is_kept_in_the_readme(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    contact_sheet([(picture(tmp_path / "red.png", "red"), "red")]).save(out / "contact_sheet.png")
    preview(clip(tmp_path / "clip.mp4", ["red", "blue"]), out / "clip.gif")
    (out / "demo.txt").write_text("new \\1\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("# Title\n```text\nold\n```\n```text\nother\n```\n", encoding="utf-8")
    keep(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Title\n```text\nnew \\1\n```\n```text\nother\n```\n"
    with Image.open(tmp_path / "docs/images/demo.png") as kept, Image.open(out / "contact_sheet.png") as made:
        assert kept.size == made.size


def test_an_animation_that_is_too_large_for_a_page_is_not_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    contact_sheet([(picture(tmp_path / "red.png", "red"), "red")]).save(out / "contact_sheet.png")
    (out / "clip.gif").write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(ValueError, match=r"demo\.gif would have 150,001 bytes"):
        keep(tmp_path)
    assert list((tmp_path / "docs/images").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_shows_what_its_prompts_say_and_a_conversation_that_remembers(models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "playground.demo", str(models)]
    environment = clean_environment(OUTPUT_DIR="elsewhere", SDXL_MODEL="nowhere")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/demo.txt").read_text(encoding="utf-8").strip() in done.stdout
    turns = (tmp_path / "out/conversation.txt").read_text(encoding="utf-8").splitlines()
    assert [turn.partition(":")[0] for turn in turns] == ["you", "chat", "you", "chat"]
    assert "Paris" in turns[1]
    assert "Eiffel" in turns[3]
    for job in requests("sdxl"):
        payload = json.loads((tmp_path / "out/demo" / job["id"] / "callback.json").read_bytes())
        assert len(payload["assets"]) == job["config"].get("num_images", 1)
        for asset in payload["assets"]:
            with Image.open(tmp_path / "out" / asset["url"]) as shown:
                reading = classify(np.array(shown))
            # A background that is not named is white.
            assert {reading.color, reading.shape, reading.background} <= {*job["prompt"].replace(",", " ").split(), "white"}, job["prompt"]
